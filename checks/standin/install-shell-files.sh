# installManPage FILE…; installShellCompletion --cmd NAME (--bash|--fish|--zsh) FILE…
installManPage() {
  local page
  for page; do install -D -m 644 -t "$out/share/man/man${page##*.}" "$page"; done
}
installShellCompletion() {
  local name=
  while [ $# -gt 0 ]; do
    case $1 in
      --cmd) name=$2 ;;
      --bash) install -d "$out/share/bash-completion/completions"; cat "$2" >"$out/share/bash-completion/completions/$name.bash" ;;
      --fish) install -d "$out/share/fish/vendor_completions.d"; cat "$2" >"$out/share/fish/vendor_completions.d/$name.fish" ;;
      --zsh) install -d "$out/share/zsh/site-functions"; cat "$2" >"$out/share/zsh/site-functions/_$name" ;;
      *) echo "installShellCompletion: $1 is not in the stand-in" >&2; return 1 ;;
    esac
    shift 2
  done
}
