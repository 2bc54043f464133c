# Sourced by the scripts beside it: where things are, and the checks that every one of them makes.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

need_root() {
  [ "$(id -u)" = 0 ] || die "the laboratory makes namespaces and mounts: run it as root (sudo $0)"
}

need_cargo() {
  command -v cargo >/dev/null && return
  if [ -x "$HOME/.cargo/bin/cargo" ]; then
    PATH=$HOME/.cargo/bin:$PATH
    return
  fi
  die "cargo is not found: install Rust (https://rustup.rs), then open a new shell"
}

build_lab() {
  echo "building (cargo build --profile lab) ..."
  cargo build --locked --profile lab -p cli -p lab ${1:-} || die "the build failed"
}
