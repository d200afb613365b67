// Parses the configuration files of Alloy that it is given; what is none ends it with 1.
package main

import (
	"fmt"
	"os"

	"github.com/grafana/alloy/syntax/ast"
	"github.com/grafana/alloy/syntax/parser"
)

func main() {
	for _, name := range os.Args[1:] {
		source, err := os.ReadFile(name)
		if err == nil {
			var file *ast.File
			file, err = parser.ParseFile(name, source)
			if err == nil {
				for _, each := range file.Body {
					if block, ok := each.(*ast.BlockStmt); ok {
						fmt.Println(block.GetBlockName(), block.Label)
					}
				}
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
