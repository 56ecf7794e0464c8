# Sourced by the other tools: makes sure that .venv holds this project with the extras named in
# $1 (comma-separated), at the versions pinned in constraints.txt, and sets $python to its Python.
# An environment that is already right is used as it is.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository"

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
    then
      echo "$candidate"
      return
    fi
  done
  echo "No Python 3.11, 3.12 or 3.13 found; install one, or name it in the variable PYTHON." >&2
  return 1
}

prepare_environment() {
  local extras=$1 wanted stamp=.venv/installed
  wanted="$(cat setup.cfg constraints.txt | cksum) $repository"
  python=$repository/.venv/bin/python
  if [ -x "$python" ] && [ "$(sed -n 1p "$stamp" 2>/dev/null)" = "$wanted" ]; then
    local extra installed missing=
    installed=$(sed -n 2p "$stamp")
    for extra in ${extras//,/ }; do
      grep -qw "$extra" <<< "$installed" || missing=yes
    done
    [ -z "$missing" ] && return
    extras=$extras${installed:+,$installed}
  else
    local base
    base=$(find_python)
    echo "Setting up .venv with $("$base" --version) …" >&2
    rm -rf .venv
    "$base" -m venv .venv
  fi
  echo "Installing this project${extras:+ with [$extras]} and the versions of constraints.txt …" >&2
  # As a variable too, which reaches the environments that pip builds source packages in.
  PIP_CONSTRAINT=constraints.txt "$python" -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e ".${extras:+[$extras]}"
  printf '%s\n%s\n' "$wanted" "$extras" > "$stamp"
}

# Makes sure that .venv-tpu holds the TPU's compiler, at the versions of tools/tpu/requirements.txt.
prepare_tpu_compiler() {
  local base wanted stamp=.venv-tpu/installed
  wanted="$(cksum < tools/tpu/requirements.txt) $repository"
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  base=$(find_python)
  cat >&2 <<END
Setting up .venv-tpu with $("$base" --version): 1.2 GB, once, for the TPU's compiler. It is libtpu, which
Google provides under the Google Cloud Platform Terms of Service (https://cloud.google.com/terms);
nothing else in this project needs it. Ctrl-C now if you do not accept them.
END
  rm -rf .venv-tpu
  "$base" -m venv .venv-tpu
  .venv-tpu/bin/python -m pip install --no-compile --quiet --disable-pip-version-check -r tools/tpu/requirements.txt
  echo "$wanted" > "$stamp"
}
