#!/usr/bin/env bash
# Create the virtual environment: cluster/setup.sh cpu|gpu|same VENV PYTHON  (called by `make setup`, `make setup-gpu`).
# `same` keeps the kind of an existing VENV; a new one gets cpu. After an interruption, run it again to resume. Versions
# come from cluster/constraints-*.txt, so that a clone of next year gets what was tested; cluster/lock.sh renews them.
set -euo pipefail
kind=$1 venv=$2 python=$3
stamp=$venv/.fgvr-setup made_for=$venv/.fgvr-kind
torch=$(sed -n 's/^ *"\(torch==[0-9.]*\)",$/\1/p' pyproject.toml)

fail() { echo "set-up: $*" >&2; exit 1; }

check_python() {
    command -v "$python" >/dev/null || fail "there is no $python. Python 3.11, 3.12 or 3.13 is needed: make setup PYTHON=python3.12"
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
        fail "$("$python" --version) does not do; Python 3.11, 3.12 or 3.13 is needed: make setup PYTHON=python3.12"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments: install its venv package (Debian: python3-venv)"
}

# Whether the configured package index serves a CPU build under torch's plain name. PyTorch's CPU builds are called
# X+cpu; elsewhere than on Linux the plain one is a CPU build, too.
index_has_cpu_torch() {
    [ "$(uname -s)" = Linux ] || return 0
    pip install --quiet --dry-run --no-deps --ignore-installed --report - "$torch" |
        grep -q '"version": *"[0-9.]*+cpu"'
}

install_cpu() {
    if index_has_cpu_torch; then
        pip install "$torch"
    else
        pip install "$torch" --index-url https://download.pytorch.org/whl/cpu
    fi
    pip install -c cluster/constraints-cpu.txt -e '.[cpu,dev]'
    # CUDA builds on the default index: beside a CPU torch they keep transformers and vllm from being imported. Nothing
    # here uses sound or video. (torchvision has the same trouble and is needed: fgvr/torchvision_cpu.py.)
    pip uninstall --quiet --yes torchaudio torchcodec
}

install_gpu() {
    pip install -c cluster/constraints-gpu.txt -e '.[gpu,dev]'
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

if [ "$kind" = same ]; then
    kind=$(cat "$made_for" 2>/dev/null || echo cpu)
fi
if [ -e "$made_for" ] && [ "$(cat "$made_for")" != "$kind" ]; then
    fail "$venv was made for $(cat "$made_for"), and CPU and GPU builds own the same modules. Another place does: VENV=.venv-$kind"
fi
check_python
rm -f "$stamp"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "$kind" >"$made_for"
"install_$kind"
echo "set-up: trying the engines"
"$venv/bin/python" -c 'import fgvr, torch, torchvision, faiss, ray, vllm, mlflow; print("torch", torch.__version__, "vllm", vllm.__version__)'
touch "$stamp"
echo "set-up: done, $venv is for $kind"
