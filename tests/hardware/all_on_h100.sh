#!/usr/bin/env bash
# What is to be measured on an NVIDIA GPU, in calls of at most ten minutes: which, in which order, how long?
#
#   tests/hardware/all_on_h100.sh                 the plan
#   tests/hardware/all_on_h100.sh CALL OUT        run one call of it, from the repository's root
#   tests/hardware/all_on_h100.sh rehearse OUT    all of them in little, over a fake library where no GPU is
#
# Every call leaves a few files in OUT, one archive a measurement, and goes on where the archives in
# docs/results/h100-study stop: copy new ones there, then `make bench-study`. Where one part of a call fails the
# next is run all the same; the exit code is then 1. Python packages that the machine lacks are looked for in
# $ENERGYD_SITE (/tmp/site).
# shellcheck disable=SC2317  # functions that `step` calls by name
set -uo pipefail

plan() {
  cat <<'PLAN'
in the order of what each minute gives, with the minutes where nothing is measured yet          minutes
1  teacher    repeats 1 and 2 of the 32B: logits, graphs; its own generate at 32 and 64            9.4   80 GB
2  eager      its own generate at 8 and 128, what is left at 32 and 64                             9.2   80 GB
3  students   repeats 1 and 2 of 1B, 7B, 13B                                                       9.2   80 GB
4  squares    each tool's error on square waves; on an H200, to compare with the H100              6.0   any GPU
5  same-load  one load 40 times: how much do its energies differ?                                  3.0   any GPU
6  frontier   a teacher and students that learn: to an equal budget, then to a target              8.8   75: once more
7  overhead   what measuring adds to a step (50 rounds), energyd release                           5.7   any H100
PLAN
}

call=${1:-}
case $call in
  "" | plan) plan; exit 0 ;;
  teacher | eager | students | squares | same-load | frontier | overhead | rehearse) ;;
  *) echo "no call is named $call" >&2; plan >&2; exit 2 ;;
esac
out=${2:?usage: all_on_h100.sh CALL OUT}
[ -f tests/bench/h100_study.py ] || { echo "not in the repository's root: cd there first" >&2; exit 2; }
mkdir -p -- "$out"
out=$(cd -- "$out" && pwd)
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1
export PYTHONPATH="$PWD/client:$PWD/daemon:$PWD/pipelines:$PWD/analysis:${ENERGYD_SITE:-/tmp/site}${PYTHONPATH:+:$PYTHONPATH}"
seen=(--seen docs/results/h100-study)
failed=0
began=$SECONDS

step() { # NAME COMMAND…: run it, say how it ended and how long it took; 75 is no failure
  local name=$1 at=$SECONDS code=0
  shift
  echo "== $name"
  "$@" || code=$?
  echo "== $name: exit $code, $((SECONDS - at)) s (of the call: $((SECONDS - began)) s)"
  [ "$code" -eq 0 ] || [ "$code" -eq 75 ] || failed=1
}

page_of() { # FILE COMMAND…: keep what it prints, and show it
  local file=$1 code=0
  shift
  "$@" > "$file" || code=$?
  cat -- "$file"
  return "$code"
}

study() { "$python" tests/bench/h100_study.py run --out "$out" "${seen[@]}" "$@"; }

packed() { # NAME FOLDER: one archive of a folder, since few files come back from machines that are lent
  tar czf "$out/$1.tar.gz" -C "$(dirname -- "$2")" "$(basename -- "$2")"
}

same_load() { # [options]
  local folder
  folder=$(mktemp -d)/same-load
  "$python" tests/bench/same_load.py measure "$folder" "$@" && packed same-load "$folder"
}

accuracy() { # [options]
  local folder code=0
  folder=$(mktemp -d)/accuracy
  "$python" tests/bench/accuracy/run.py --out "$folder" "$@" || code=$?
  [ ! -d "$folder" ] || packed accuracy "$folder"
  return "$code"
}

overhead() { # [options]
  "$python" tests/bench/overhead_gpu.py --raw "$out/overhead.json" "$@"
}

squares=square-50ms,square-250ms,square-1000ms
case $call in
  overhead)
    step overhead page_of "$out/overhead.md" overhead --rounds 50 --minutes 5
    step release page_of "$out/release.md" "$python" tests/hardware/release_on_gpu.py
    ;;
  same-load) step same-load same_load ;;
  frontier) step frontier "$python" tests/bench/h100_study.py frontier --out "$out" --minutes 8.6 ;;
  students) step students study part=students sizes=1b,7b,13b idle_s=5 minutes=8.8 ;;
  teacher)
    step teacher study part=teacher idle_s=5 minutes=5.6
    step eager study part=eager batches=32,64 idle_s=0 minutes=3.5
    ;;
  eager) step eager study part=eager idle_s=0 minutes=9 ;;
  squares) step squares accuracy --loads "$squares" --seconds-per-load 60 --budget-seconds 340 ;;
  rehearse)
    seen=()
    small=(data.n=200 data.n_eval=20 train.steps=4 train.batch=32 train.group_steps=4 prerun.idle_s=0.2)
    taught=()
    for word in "students=[{name: T, width: 32, layers: 1}]" "${small[@]}"; do taught+=(--teacher "$word"); done
    step overhead page_of "$out/overhead.md" overhead --pretend --rounds 2 --block-s 0.2
    step same-load same_load --pretend --steps 2 --pairs 2
    step students study pretend=true part=students repeats=1 window_s=0.1
    step teacher study pretend=true part=teacher repeats=1 window_s=0.1
    step eager study pretend=true part=eager repeats=1 window_s=0.1
    step frontier "$python" tests/bench/h100_study.py frontier --out "$out" --place "$(mktemp -d)" \
      "students=[{name: S, width: 16, layers: 1}]" "seeds=[0]" "${small[@]}" "${taught[@]}"
    step squares accuracy --loads cpu-fake --only-tools energyd-stage --seconds-per-load 4 --budget-seconds 60
    ;;
esac
echo "== $call: $((SECONDS - began)) s, $([ "$failed" -eq 0 ] && echo 'all done' || echo 'something failed')"
exit "$failed"
