# What a derivation of the stand-in runs: the phases of nixpkgs' stdenv that the project uses, with their hooks. Sourced by nix develop as well.
set -e -o pipefail
shopt -s inherit_errexit nullglob
PATH=/usr/bin
for input in ${nativeBuildInputs-} ${buildInputs-}; do
  PATH=$input/bin:$PATH
  if [ -e "$input/nix-support/setup-hook" ]; then . "$input/nix-support/setup-hook"; fi
done
export PATH HOME=/homeless-shelter SOURCE_DATE_EPOCH=315532800
prefix=${out-}

runHook() { # NAME: a function, or the text of a variable
  if declare -F "$1" >/dev/null; then "$1"; elif [ -n "${!1-}" ]; then eval "${!1}"; fi
}
unpackPhase() {
  runHook preUnpack
  if [ -d "$src" ]; then cp -r --no-preserve=ownership "$src" source; chmod -R u+w source; cd source; else cp "$src" .; fi
  runHook postUnpack
}
genericBuild() {
  local phase
  unpackPhase
  for phase in configurePhase buildPhase checkPhase installPhase; do
    if [ "$phase" = checkPhase ] && [ "${doCheck-}" != 1 ]; then continue; fi
    runHook "$phase"
  done
}
