#!/usr/bin/env bash
# Makes results/paper and the results in README.md: runs, mechanism, speed, report. Of results/paper it uses only what
# --tune makes: the results of tuning, and which reading is model=amu. Runs that are finished in results/runs are not
# trained again. Needs amu-run in the PATH (pip install -e .).
#
#   scripts/reproduce_paper.sh           everything, tuned as in conf/experiment: an estimated 3 hours on 2 cores
#   scripts/reproduce_paper.sh --tune    first tunes the models and tries the unit's readings: an estimated 5 hours more
#   scripts/reproduce_paper.sh --quick   3 trials and small budgets, in results/quick: 5 minutes on 2 cores
#
# Ctrl-C stops it at any time. The same command continues from there and trains nothing twice. One run starts for each
# processor (JOBS=1: one run), and each run has one thread. results/runs/logs has the output of the runs.
set -euo pipefail
set -m # each run has its own process group: Ctrl-C reaches only this script, which then stops the runs in order
cd "$(dirname "$0")/.."

# The experiments that test the claims run first and the shortest run last, so that the processors finish together.
claimed=(embedded_reber embedded_reber_legal two_sequence_3c two_sequence_3a)
generating=(fitzhugh_nagumo mso8 mso5 mso2 pen embedded_reber_sampled mackey_glass waveform_1000 waveform_500
  waveform_250 waveform_100)
if python -c "import music21" 2>/dev/null; then generating+=(chorales); fi
experiments=(long_lag_2c copy_memory temporal_order_6b temporal_order_6a two_sequence_3b adding multiplication
  japanese_vowels arrow_head gun_point basic_motions italy_power_demand)
lags=(two_sequence_3c:1000 two_sequence_3a:1000 two_sequence_3c:500 two_sequence_3a:500 two_sequence_3c:200
  two_sequence_3a:200 adding:500 adding:200 copy_memory:100)

jobs=${JOBS:-$(nproc)}
runs=results/runs paper=results/paper tune=false
few=() small=() benchmark=()
# Only runs that end at a criterion: no claim rests on the mechanism of networks that sample strings.
mechanism=(--steps 200 --where "task == embedded_reber,two_sequence,adding" --where "training.stop != null")
for option in "$@"; do
  case $option in
    --tune) tune=true ;;
    --quick)
      runs=results/quick/runs paper=results/quick/paper
      few=(trials=3) small=(training.max_sequences=1000) benchmark=(--quick)
      mechanism=(--sequences 2 --where "task == embedded_reber,adding" --where "training.stop != null")
      lags=(two_sequence_3c:200 two_sequence_3a:200 adding:200 copy_memory:100)
      ;;
    *) echo "usage: scripts/reproduce_paper.sh [--tune] [--quick]" >&2 && exit 2 ;;
  esac
done
place=(threads=1 "results_dir=$runs")
logs=$runs/logs
failed=$logs/failed
mkdir -p "$logs"
rm -f "$failed"

main() {
  if $tune; then
    part "The readings of the unit"
    start readings python -m amu_experiments.studies.readings --threads "$jobs"
    finish

    part "Tuning"
    for experiment in "${claimed[@]}" "${generating[@]}" "${experiments[@]}"; do
      start "tune-$experiment" python -m amu_experiments.studies.tuning "$experiment" --threads 1
    done
    finish
    start shipped python -m amu_experiments.studies.shipped
    finish
  fi

  part "The experiments, and the LSTM of 1997 with the settings of 1997"
  compare_all "${claimed[@]}"
  # The numbers of trials are those of the source.
  historical 30 embedded_reber
  historical 10 adding
  historical 10 two_sequence
  historical 10 multiplication
  historical 10 temporal_order
  for pair in "${lags[@]}"; do
    compare "${pair%:*}" "$(at_lag "${pair%:*}" "${pair#*:}")" "task.T=${pair#*:}"
  done
  compare_all "${generating[@]}"
  compare_all "${experiments[@]}"
  finish

  part "Mechanism, and the longest lag"
  start mechanism python scripts/measure_mechanism.py --results-dir "$runs" --out "$paper/mechanism" "${mechanism[@]}"
  if ((${#few[@]} == 0)); then
    longest two_sequence_3c
    longest two_sequence_3a
  fi
  finish

  part "Samples: strings, free runs, WAV files, letters, chorales"
  rm -rf "$paper/samples"
  for experiment in embedded_reber_sampled waveform_500 pen; do sample "$experiment/amu"; done
  sample pen/rnn # models that do better than the AMU here
  sample waveform_500/clockwork
  sample mso2/cornn --primed --count 2
  for experiment in mso2 mso8 fitzhugh_nagumo mackey_glass; do sample "$experiment/amu" --primed --count 2; done
  if [[ " ${generating[*]} " == *" chorales "* ]]; then
    sample chorales/amu --count 1
    sample chorales/lstm --count 1
  fi
  finish

  part "Speed, compared with JAX if it is installed"
  if python -c "import jax, optax" 2>/dev/null; then benchmark+=(--jax-python python); fi
  start speed python scripts/benchmark.py --out "$paper/speed.csv" "${benchmark[@]}"
  finish

  part "Report, from the copy of the runs that git stores"
  rm -rf "$paper"/{runs,tables,figures} # they may come from runs that no longer exist
  start export python scripts/export_runs.py --results-dir "$runs" --out "$paper/runs"
  finish
  start report amu-report --results-dir "$paper/runs" --out "$paper"
  finish
  if [[ $paper == results/paper ]]; then
    start readme python scripts/make_readme.py
    finish
  fi

  echo "Everything took $(duration $SECONDS)."
  if [[ -e $failed ]]; then
    echo "Failed, see $logs: $(tr '\n' ' ' <"$failed")" >&2
    exit 1
  fi
}

compare_all() { # EXPERIMENT...: each with all its models
  for experiment in "$@"; do
    compare "$experiment" "$(models "$experiment")"
  done
}

models() { basename -s .yaml conf/experiment/"$1"/* | grep -vx base; } # of EXPERIMENT

at_lag() { # EXPERIMENT T: models that are compared at other lags; the others only at T = 100, for time
  if [[ " ${claimed[*]} " != *" $1 "* ]]; then
    models "$1"
    return
  fi
  local shipped=amu_$(sed -n '2s/,.*//p' results/paper/readings_shipped.csv) others='_sgd$|^(lem|janet)$'
  if (($2 >= 1000)); then others='^(lstm97|lem|janet)_sgd$'; fi
  models "$1" | grep -vE "_(full|memory)(_sgd)?$|$others"
  if (($2 >= 1000)); then echo "${shipped}_full"; fi
}

longest() { # EXPERIMENT: the three models that go best at T = 1000, at T = 3000
  local names=$(printf " $1/%s" $(at_lag "$1" 1000))
  local best=$(python -m amu_experiments.studies.longest $names --lag 1000 --results-dir "$runs")
  compare "$1" "$(basename -a $best)" task.T=3000
}

compare() { # EXPERIMENT MODELS [KEY=VALUE]...: these models, one after another
  local choices=$(printf ",$1/%s" $2)
  local name=$(tr ' ' - <<<"$1 ${*:3}")
  start "${name%-}" amu-run -m "experiment=${choices:1}" "${@:3}" "${few[@]}" "${small[@]}" "${place[@]}"
}

sample() { # EXPERIMENT OPTIONS...: sequences that its median network generates
  local out=$paper/samples
  start "sample-$(tr / - <<<"$1")" amu-sample "experiment=$1" "${small[@]}" "${place[@]}" --out "$out" "${@:2}"
}

historical() { # TRIALS TASK: all settings for that task, one after another
  local files=(conf/experiment/lstm97_1997/"$2"*.yaml)
  local names=("${files[@]#conf/experiment/}")
  local choices=$(printf ",%s" "${names[@]%.yaml}")
  start "lstm97_1997-$2" amu-run -m "experiment=${choices:1}" "${few[@]:-trials=$1}" "${small[@]}" "${place[@]}"
}

part() {
  title=$1 began=$SECONDS
  echo "== $title"
}

finish() { # wait for all runs
  wait
  echo "== $title: $(duration $((SECONDS - began)))"
}

start() { # NAME COMMAND...: in the background, once a processor is free
  while (($(jobs -rp | wc -l) >= jobs)); do wait -n || true; done
  run "$@" &
}

run() {
  trap 'exit 143' TERM # exit after the command has ended; it gets the signal, too
  local name=$1 began=$SECONDS
  if "${@:2}" >"$logs/$name.log" 2>&1; then
    echo "   $name: $(duration $((SECONDS - began)))"
  else
    echo "   $name failed: $(tail -n 1 "$logs/$name.log")" >&2
    echo "$name" >>"$failed"
  fi
}

duration() { (($1 < 120)) && echo "$1 s" || echo "$(($1 / 60)) min"; }

stop() {
  trap - INT TERM
  echo "Stopping; the same command continues from here."
  for group in $(jobs -rp); do kill -TERM -- "-$group" || true; done
  wait
  exit 130
}
trap stop INT TERM

main
