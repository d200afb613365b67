"""Request-latency histograms whose buckets each remember a sampled trace: a click on a spike opens it in Tempo."""
