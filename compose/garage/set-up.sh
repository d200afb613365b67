#!/bin/sh
# Gives a new Garage its layout, a key and the buckets of Tempo and Loki; one that has them stays as it is.
# Beside the server's garage.toml, metadata and GARAGE_RPC_SECRET it takes S3_ACCESS_KEY and S3_SECRET_KEY.
set -eu

until garage status >/dev/null 2>&1; do sleep 1; done

if garage layout show 2>/dev/null | grep -q 'Current cluster layout version: 0'; then
    garage layout assign --zone here --capacity "${GARAGE_CAPACITY:-10G}" "$(garage node id --quiet | cut -d @ -f 1)"
    garage layout apply --version 1
fi
garage key info "$S3_ACCESS_KEY" >/dev/null 2>&1 ||
    garage key import --yes -n telemetry "$S3_ACCESS_KEY" "$S3_SECRET_KEY"
for bucket in tempo loki; do
    garage bucket info "$bucket" >/dev/null 2>&1 || garage bucket create "$bucket"
    garage bucket allow --read --write --key "$S3_ACCESS_KEY" "$bucket"
done
