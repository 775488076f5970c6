# checks/run scenarios and scenarios-defects: see README.md.

part_scenarios() { # scenarios under a real systemd: all, or the named ones
  local name names=("$@")
  [ ${#names[@]} != 0 ] || mapfile -t names < <(scenarios)
  scenarios_ready "scenarios (${names[*]})" || return
  local scripts=(checks/common.py $(scenarios | sed 's,.*,checks/&.py,'))
  check "calls of the scenarios" python3 checks/standin/driver/calls.py checks/standin/driver "${scripts[@]}"
  if [ -n "${NIXOS_TEST_DRIVER-}" ]; then
    check "calls of the scenarios, by NixOS" python3 checks/standin/driver/calls.py "$NIXOS_TEST_DRIVER" "${scripts[@]}"
  else
    echo "not run: calls of the scenarios, by NixOS: set NIXOS_TEST_DRIVER to nixos/lib/test-driver of a checkout of nixpkgs"
  fi
  local drivers=()
  for name in "${names[@]}"; do drivers+=(".#checks.$(uname -m)-linux.$name.driver"); done
  if ! checks/nix build "${drivers[@]}" -o "$work/driver" >"$work/check.log" 2>&1; then
    tail -n 20 "$work/check.log"
    echo "not run: scenarios (${names[*]}): their drivers could not be built" | tee -a "$work/failed"; failed=$((failed + 1)); return
  fi
  # They mostly wait: three at a time.
  for name in "${names[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge 3 ]; do wait -n; done
    { scenario "$name" >"$work/scenario-$name.log" 2>&1; echo $? >"$work/scenario-$name.status"; } &
  done
  wait
  for name in "${names[@]}"; do check "scenario $name" ended "$name"; done
}

scenarios_ready() { # PART: says why it can't be run here, which is a failure
  [ "$(id -u)" = 0 ] || { echo "not run: $1: containers need root"; failed=$((failed + 1)); return 1; }
  need mmdebstrap=mmdebstrap systemd-nspawn=systemd-container ip=iproute2 mke2fs=e2fsprogs python3=python3 ||
    { echo "not run: $1"; failed=$((failed + 1)); return 1; }
}

scenarios() { # their names
  local file
  for file in checks/*.py; do [ ! -e "${file%.py}.nix" ] || basename "$file" .py; done
}

scenario() { # scenario NAME: runs its driver
  local driver
  for driver in "$work"/driver*; do
    driver=$(readlink "$driver")
    case $driver in *-nixos-test-driver-"$1"-stand-in) checks/nix --exec checks/rig "$driver/bin/nixos-test-driver"; return ;; esac
  done
  echo "not run: $1: it has no driver"; return 3
}

ended() { cat "$work/scenario-$1.log"; return "$(cat "$work/scenario-$1.status")"; }

# What each scenario is there for, taken away in a copy of the tree: it has to fail, and to say why. Not among all parts: it takes a quarter of an hour.
part_scenarios_defects() {
  scenarios_ready scenarios-defects || return
  mkdir "$work/tree"
  git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work/tree"
  scenario_defect "ready before the queue stands" watchdog src/cmd/cis490-shipper/run.go \
    's/^\t\t\tcfg, err := r.load()$/\t\t\tr.notifier.Ready()\n&/' "with its disk frozen the queue can't be constructed"
  scenario_defect "a ticker that pings" watchdog src/liveness/notify.go \
    's/^\treturn n$/\tgo func() {\n\t\tfor ; ; time.Sleep(time.Second) {\n\t\t\tn.Watchdog()\n\t\t}\n\t}()\n&/' "hangs(lab1"
  scenario_defect "a seal that is not flushed" end-to-end src/episode/sealing.go \
    's/^func syncQueue(.*/&\n\treturn nil/' "action timed out"
  scenario_defect "a start limit" restart modules/common.nix 's/startLimitIntervalSec = 0;/startLimitIntervalSec = 60;/' "crashes(lab1"
  scenario_defect "a configuration error that is tried again" restart modules/receiver.nix 's/"-${lib.getExe/"${lib.getExe/' "'activating' != 'failed'"
  scenario_defect "a key that the group reads" sandbox modules/lab-host.nix 's/identity" = dir "0700"/identity" = dir "0750"/' "'750'"
  scenario_defect "a hole in the sandbox" sandbox modules/common.nix '/InaccessiblePaths = /d' "what it could write"
  scenario_defect "a right too many" sandbox modules/common.nix '/NoNewPrivileges = /d; /RestrictSUIDSGID = /d; /PrivateUsers = /d; /SystemCall/d; s/CapabilityBoundingSet = "";//' "what it could call"
  scenario_defect "a quarantine that is emptied early" quarantine src/queue/cleanup.go 's/maxKeepDays))\*24/maxKeepDays))*23/' "exactly what is older"
  scenario_defect "an upload that begins anew" upgrade src/queue/upload.go 's/^func (q \*Queue) uploadFile(.*/func (q *Queue) uploadFile(id episode.ID) string { return q.path(uploadsDir, episode.NewID().String()+".json") }/' "not less than"
}

scenario_defect() { # NAME SCENARIO FILE SED MESSAGE
  local file=$work/tree/$3
  cp "$file" "$work/original"
  check "caught: $1" scenario_caught "$2" "$file" "$4" "$5"
  cp "$work/original" "$file"
}

scenario_caught() { # SCENARIO FILE SED MESSAGE
  local driver
  sed -i "$3" "$2"
  ! cmp -s "$2" "$work/original" || { echo "there is no such place in $2"; return 1; }
  driver=$(checks/nix build --no-link --print-out-paths -f "$work/tree/checks/standin/outputs.nix" "checks.$(uname -m)-linux.$1.driver") ||
    { echo "it can't be built"; return 1; }
  if checks/nix --exec checks/rig "$driver/bin/nixos-test-driver" >"$work/caught.log" 2>&1; then echo "not caught"; cat "$work/caught.log"; return 1; fi
  # Where it failed and why, not what was said on the way.
  grep -a "of the testScript: \|^[- ].* != \|FAILED: " "$work/caught.log" >"$work/why.log"
  grep -a -q -F -- "$4" "$work/why.log" || { echo "caught, but it does not say: $4"; cat "$work/why.log"; return 1; }
}
