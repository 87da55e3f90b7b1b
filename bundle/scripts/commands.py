# SPDX-License-Identifier: Apache-2.0
"""Commands of ``spine-fracture`` and of ``python -m scripts.<room>``: one table, whose functions are imported when they run."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

from .core.bundle_command import check_bundle_command
from .core.cli import HELP, VERSION, Table, declared, print_text, run
from .core.errors import InputError
from .core.paths import BUNDLE
from .core.provenance import version

DATA: Table = {
    "folder": ("data.datasets.folder:folder", "training data from a folder of your own scans and masks"),
    "verse": ("data.datasets.verse:verse", "training data from VerSe 2019 or 2020 with Genant grades"),
    "rsna": ("data.datasets.rsna:rsna", "training data from RSNA 2022 (cervical spine)"),
    "totalsegmentator": ("data.datasets.vertebra_masks:totalsegmentator", "vertebra masks of TotalSegmentator"),
    "ctspine1k": ("data.datasets.vertebra_masks:ctspine1k", "vertebra masks of CTSpine1K"),
    "phantom": ("simulation.datasets.phantom:phantom", "phantoms with simulated fractures"),
    "simulate": ("simulation.datasets.simulate:simulate", "simulated fractures in CT with vertebra masks"),
    "render": ("simulation.datasets.render:render", "CT rendered around vertebra masks"),
    "meshes": ("simulation.datasets.meshes:meshes", "CT rendered around spines of vertebra surfaces"),
    "scans": ("simulation.datasets.scans:scans", "CT with vertebra masks, fractures ignored"),
    "build": ("simulation.datasets.build:build", "one training set from several sources, described by a YAML file"),
    "compare_builds": ("simulation.datasets.compare_builds:compare_builds", "two built training sets, within rounding"),
    "compact": ("data.compact:compact", "small copy of a data set, for machines reached through a narrow channel"),
    "merge": ("data.merge:merge", "one datalist of several data sets"),
    "split": ("data.split:split", "training, validation and test cases, or folds, by patient"),
    "check": ("data.checks.report:check", "problems in a datalist"),
    "preview": ("data.preview:preview", "one page with an overlay of every case"),
}
SEGMENT = ("inference.segment:segment_command", "fractured vertebrae in CT scans")
EXPORT = ("inference.export:export", "the network as TorchScript, ONNX or OpenVINO")
TUNE = ("evaluation.tune_postprocessing:tune", "post-processing parameters tuned on validation cases")
EVALUATION: Table = {
    "score": ("evaluation.score:score_command", "metrics of masks from any tool against references"),
    "compare": ("evaluation.compare:compare", "two or more runs on the same cases, by paired tests"),
    "instances": ("evaluation.score_instances:score_instances_command", "vertebra instances of any tool against references"),
    "calibrate": ("evaluation.calibrate:calibrate", "calibration of vertebra probabilities on validation cases"),
    "check-weights": ("evaluation.check_weights:check_weights", "stability of the weights on unlabelled scans of a new scanner"),
    "tune": TUNE,
    "verse-benchmark": ("evaluation.verse_benchmark:verse_benchmark", "a network against the Genant grades of VerSe 2019"),
}
EXPERIMENTS: Table = {
    "run": ("experiments.suite.run:run", "every run of a suite"),
    "status": ("experiments.suite.run:status", "progress of a suite"),
    "table": ("experiments.suite.table:table", "results of a suite as tables and figures"),
    "pack": ("experiments.suite.kit:pack", "a suite with code and data as an archive for another machine"),
    "unpack": ("experiments.suite.unpack:unpack", "results of another machine in the folder of a suite"),
    "score": ("experiments.suite.score:score", "scores of trained members, without a training"),
    "reproduce": ("experiments.suite.reproduce:reproduce", "a run repeated from its own config and compared"),
    "search": ("experiments.search:search", "hyper-parameter search with Optuna"),
    "search_report": ("experiments.search:search_report", "results of a search"),
}
LABEL: Table = {"serve": ("label.serve:serve", "MONAI Label's server with this bundle, for 3D Slicer")}
WEIGHTS: Table = {
    "show": ("training.describe_weights:show", "description that a file of weights carries"),
    "describe": ("training.describe_weights:describe", "copy of a file of weights with a description"),
    "average": ("training.average_weights:average", "mean of the weights before and after a training"),
}
INFERENCE: Table = {"segment": SEGMENT, "export": EXPORT, "tune": TUNE}  # tune moved to evaluation in version 0.6
ROOMS = {"data": DATA, "evaluation": EVALUATION, "experiments": EXPERIMENTS, "inference": INFERENCE, "label": LABEL}
# They export, or resolve configs of trainings, which name anything of MONAI.
WHOLE_MONAI = {target for target, _ in (EXPORT, *LABEL.values(), *EXPERIMENTS.values())} - {EXPERIMENTS["status"][0]}
PROGRAM = "spine-fracture"
COMMANDS: Table = {
    "segment": SEGMENT,
    "evaluate": (EVALUATION, "scores, comparisons, calibration, post-processing parameters"),
    "data": (DATA, "training data: converters, phantoms, simulated fractures, splits, checks"),
    "experiments": (EXPERIMENTS, "suites of trainings, tables, hyper-parameter search"),
    "label": (LABEL, "MONAI Label for 3D Slicer"),
    "export": EXPORT,
    "weights": (WEIGHTS, "descriptions of files of weights"),
    "bundle": ("commands:bundle", "python -m monai.bundle of the installed bundle: training, evaluation"),
    "path": ("commands:path", "folder of the installed bundle"),
    "completion": ("commands:completion", "completion script for bash or zsh"),
}


def main(room: str | None = None) -> None:
    """Run the command line of this process.

    Args:
        room: folder whose commands are run, ``python -m scripts.<room>``; None for ``spine-fracture``.
    """
    arguments = sys.argv[1:]
    if room is None:
        if arguments[:1] == ["version"]:
            print(f"{PROGRAM} {version()}")
        elif arguments[:1] == ["bundle"] and arguments[1:2] not in ([], ["-h"], ["--help"]):
            bundle(*arguments[1:])  # its options are MONAI's
        else:
            run(COMMANDS, PROGRAM, arguments, WHOLE_MONAI)
        return
    if room == "inference" and arguments and arguments[0] not in (*INFERENCE, *HELP, *VERSION, "help"):
        arguments = ["segment", *arguments]
    run(ROOMS[room], f"python -m scripts.{room}", arguments, WHOLE_MONAI)


def path() -> None:
    """Print the folder of the bundle, which holds configs, weights and code."""
    print(BUNDLE)


def bundle(*words: str) -> None:
    """Run ``python -m monai.bundle`` in place of this process, with the code of the bundle importable.

    Configs such as ``configs/train.yaml`` are found below the installed bundle. A training writes to ``runs/NAME`` below the
    current folder, ``--run_name NAME``, unless ``--ckpt_dir`` and ``--output_dir`` are given.

    Args:
        words: arguments of ``python -m monai.bundle``, such as: run training --config_file configs/train.yaml --dataset_dir DIR.
    """
    text = [_bundle_configs(word) for word in words]
    check_bundle_command(text)
    environment = dict(os.environ)
    # MONAI warns of every config that it can run code.
    environment["PYTHONWARNINGS"] = ",".join(filter(None, [environment.get("PYTHONWARNINGS", ""), "ignore:parsing config_file"]))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(BUNDLE), environment.get("PYTHONPATH", "")]))
    sys.stdout.flush()
    line = [sys.executable, "-m", "monai.bundle", *text]
    if os.name == "posix":
        os.execve(line[0], line, environment)
    else:
        raise SystemExit(subprocess.call(line, env=environment))


def _bundle_configs(word: str) -> str:
    """Word in which every config that exists below the bundle and not here has its full path."""
    return re.sub(
        r"(?:bundle/)?(configs/[\w./-]+\.(?:yaml|json|conf))",
        lambda m: m[0] if Path(m[0]).exists() else str(BUNDLE / m[1]) if (BUNDLE / m[1]).exists() else m[0],
        word,
    )


def _names(table: Table, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], list[str]]:
    """Words that may follow each beginning of a command line: commands, or the options of a command."""
    following: dict[tuple[str, ...], list[str]] = {words: list(table)}
    for name, (target, _) in table.items():
        if isinstance(target, str):
            following[(*words, name)] = [f"--{p}" for p in inspect.signature(declared(target)).parameters]
        else:
            following |= _names(target, (*words, name))
    return following


def completion(shell: str = "bash") -> None:
    """Print a completion script; load it by: eval "$(spine-fracture completion bash)".

    Args:
        shell: name of the shell, bash or zsh.
    """
    if shell not in ("bash", "zsh"):
        raise InputError(f"{shell}: must be bash or zsh")
    cases = "\n".join(f'    "{" ".join(words)}") words="{" ".join(following)}" ;;' for words, following in _names(COMMANDS).items())
    if shell == "zsh":
        print_text("autoload -U +X bashcompinit && bashcompinit")
    print_text(
        f"""_spine_fracture() {{
  local words= typed= word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do [[ $word == -* ]] && break; typed="${{typed:+$typed }}$word"; done
  while :; do
    case "$typed" in
{cases}
    esac
    [[ -n $words || -z $typed ]] && break
    [[ $typed == *" "* ]] && typed="${{typed% *}}" || typed=
  done
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _spine_fracture {PROGRAM}"""
    )
