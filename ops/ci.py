"""`ci …`: the steps of the workflows in .github/workflows, each a command that any machine can run.

The programs that a step runs for a stack get the stack's cloud keys through their environment, and none of the job's
own tokens: code that a pull request brings must not be able to write to GitHub. So one step runs the programs and
another reports on them, with a folder to hand the results over.
"""

from __future__ import annotations

import argparse
import datetime
import getpass
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ci import backend, sessions, stacks
from ci.github import MARKER, GitHub
from config.errors import NAMESPACE
from config.stack_file import RequestError, path_of, read
from planning.problems import Problem, Refused, printable
from report import redaction
from report.judgement import LABEL
from report.pages import marker, plain

LABELS = ("restart", "replace", "delete")
"""Labels by which a pull request shows what it does to its stacks."""
DRIFT = "drift"

# Of a failure whose own words end up in a comment.
_MOST_TOLD = 1000
_TEXT, _VERDICT, _RUN = "text.md", "verdict.json", "run.json"
_OPS = (sys.executable, "-m", "ops")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    steps = parser.add_subparsers(required=True, metavar="STEP")

    def add(run: Callable[[argparse.Namespace], int], text: str, *arguments: str) -> argparse.ArgumentParser:
        step = steps.add_parser(run.__name__.removesuffix("_"), help=text, description=text)
        for argument in arguments:
            step.add_argument(argument.lower(), metavar=argument)
        step.set_defaults(step=run)
        return step

    add(show, "check, plan and render a stack file, for whoever reads the run", "STACK")
    add(changed, "print which stacks the commit changes, as a JSON list").add_argument(
        "--base", metavar="COMMIT", help="what it is compared with; the event's if absent"
    )
    add(backend_, "refuse a state URL, or an engine, that the object store would refuse").add_argument(
        "url", metavar="URL", nargs="?", help="PULUMI_BACKEND_URL if absent"
    )
    add(preview, "preview a stack, and write what to tell of it into a folder", "STACK", "FOLDER")
    add(comment, "tell of a preview, in the stack's one comment on the pull request", "FOLDER")
    add(labels, "give the pull request the labels that its stacks' comments show").add_argument(
        "--stacks", metavar="JSON", type=_names, required=True, help="the stacks that it changes, as `changed` printed"
    )
    add(before, "print whether the stack's last job ended before its end", "JOB")
    add(up, "update a stack, and ask its models", "STACK").add_argument(
        "--unfinished", choices=("true", "false", ""), default="", help="what `before` printed"
    )
    add(drift, "look for drift, and write what to tell of it into a folder", "STACK", "FOLDER")
    add(issue, "tell of drift, in the stack's one issue, and close it when there is none", "FOLDER")
    add(judge, "hold a stack that is there against the policies", "STACK")
    add(expire, "destroy a stack whose last day is over, and see what is left", "STACK")


def run(args: argparse.Namespace) -> int:
    """Runs the step: 0 fine, 1 what it looked at is wrong. Raises Refused or RequestError."""
    return args.step(args)


def show(args: argparse.Namespace) -> int:
    """Writes check and plan to the run's page, the rendering to its log. Asks no cluster: the context is made up."""
    raw = read(path_of(args.stack)).raw
    cluster = raw.get("cluster")
    context = cluster.get("context", "") if isinstance(cluster, dict) else ""
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = Path(folder) / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump({"contexts": [{"name": context, "context": {"cluster": "none"}}]}))
        surroundings = os.environ | {"KUBECONFIG": str(kubeconfig)}
        worst = 0
        for command in ("check", "plan"):
            done = subprocess.run([*_OPS, command, args.stack], env=surroundings, text=True, capture_output=True)
            print(done.stdout, end="")
            print(done.stderr, end="", file=sys.stderr)
            _append("GITHUB_STEP_SUMMARY", f"## {command} {args.stack}\n```\n{done.stdout}{done.stderr}```\n")
            worst = max(worst, done.returncode)
        return max(worst, subprocess.run([*_OPS, "render", args.stack], env=surroundings).returncode)


def changed(args: argparse.Namespace) -> int:
    """Prints the list of changed stacks, and writes it as the step's output `stacks`."""
    names = stacks.looked_after(Path())
    base = args.base or _base()
    files = None
    if base:
        done = subprocess.run(["git", "diff", "-z", "--name-only", f"{base}...HEAD"], text=True, capture_output=True)
        # If a forced push removed the base commit, nobody knows what changed.
        files = [name for name in done.stdout.split("\0") if name] if done.returncode == 0 else None
    found = json.dumps(stacks.changed(names, files))
    print(found)
    _append("GITHUB_OUTPUT", f"stacks={found}\n")
    return 0


def backend_(args: argparse.Namespace) -> int:
    """Raises Refused with everything that is wrong."""
    url = args.url or os.environ.get("PULUMI_BACKEND_URL")
    if not url:
        raise Refused(Problem("PULUMI_BACKEND_URL", "", "is not set", "write the URL of the state's bucket"))
    _check_backend(url)
    print(f"{url}: fits")
    return 0


def preview(args: argparse.Namespace) -> int:
    """The exit code of `ops report`: 1 if the change needs a label that is missing, or the preview failed."""
    folder, surroundings = _begin(args)
    _pulumi_to(folder / _RUN, surroundings, "preview", "--json", "-s", args.stack)
    # Somebody else's label may begin alike. One that is misspelt allows nothing, and the comment says which one would.
    allowed = [name for name in _event_labels() if LABEL.fullmatch(name)]
    options = ["--allow", *allowed] if allowed else []
    return _told(folder, surroundings, args.stack, "report", options)


def comment(args: argparse.Namespace) -> int:
    """Writes the comment of the folder's preview."""
    text, verdict = _read(args.folder)
    print(f"comment {GitHub.of_job().put_comment(_number(), text, verdict.get('labels', ()))}")
    return 0


def labels(args: argparse.Namespace) -> int:
    """Sets the labels that all stacks' comments ask for, in one go: the stacks' own jobs run side by side."""
    print(json.dumps(GitHub.of_job().settle_labels(_number(), LABELS, args.stacks)))
    return 0


def before(args: argparse.Namespace) -> int:
    """Prints true or false, and writes it as the step's output `unfinished`."""
    number, attempt = (int(os.environ.get(name) or 0) for name in ("GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT"))
    # For example o/r/.github/workflows/deploy.yml@refs/heads/main.
    workflow = os.environ.get("GITHUB_WORKFLOW_REF", "").partition("@")[0].rpartition("/")[2]
    unfinished = json.dumps(GitHub.of_job().unfinished(workflow, number, attempt, args.job))
    print(unfinished)
    _append("GITHUB_OUTPUT", f"unfinished={unfinished}\n")
    return 0


def up(args: argparse.Namespace) -> int:
    """1 if the update failed or a model does not answer. After an unfinished run, repairs and refreshes first."""
    surroundings = _environment(args.stack)
    refresh = []
    if args.unfinished == "true":
        if not _recovered(args.stack, surroundings):
            return 1
        refresh = ["--refresh"]
    update = ["pulumi", "up", "-s", args.stack, "--yes", "--skip-preview", "--non-interactive", *refresh]
    if _call(update, surroundings):
        return 1
    return subprocess.run([*_OPS, "verify", args.stack], env=surroundings).returncode


def drift(args: argparse.Namespace) -> int:
    """0 even with drift, which the issue reports; 2 if the refresh failed, so that nobody can tell."""
    folder, surroundings = _begin(args)
    # Else pulumi prints a shorter JSON, without what somebody has added to a list, such as a rule that lets all in.
    surroundings |= {"PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true"}
    _pulumi_to(folder / _RUN, surroundings, "refresh", "--preview-only", "--json", "-s", args.stack)
    code = _told(folder, surroundings, args.stack, DRIFT, [])
    return 0 if code == 1 else code


def issue(args: argparse.Namespace) -> int:
    """Opens, updates, reopens or closes the stack's issue. If the refresh failed, leaves the issue as it is."""
    text, verdict = _read(args.folder)
    told, stack = GitHub.of_job(), verdict.get("stack", "")
    if verdict.get("verdict") == "drift":
        print(f"issue {told.put_issue(f'{stack}: drift', text, DRIFT)}")
    elif verdict.get("verdict") == "none":
        print(f"issue {told.close_issue(text.partition(chr(10))[0], DRIFT, 'No drift any more.')}")
    else:
        print("issue left as it is: the refresh failed")
    return 0


def judge(args: argparse.Namespace) -> int:
    """The exit code of `ops policy`: 1 if a mandatory rule is broken."""
    surroundings = _environment(args.stack)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.json"
        file.write_text(_exported(args.stack, surroundings))
        return _call([*_OPS, "policy", str(file)], surroundings)


def expire(args: argparse.Namespace) -> int:
    """1 if the destroy failed, or its audit found something that was not kept on purpose."""
    if not stacks.expired(read(path_of(args.stack)).raw, datetime.date.today()):
        print(f"{args.stack}: is still needed")
        return 0
    surroundings = _environment(args.stack)
    destroy = [*_OPS, "destroy", args.stack, "--yes"]
    code = _call(destroy, surroundings)
    # The last job may have been cut off: its lock, and what the state does not know, are in the way.
    if code == 1 and _recovered(args.stack, surroundings):
        code = _call(destroy, surroundings)
    kept, alive = stacks.left(json.loads(_exported(args.stack, surroundings)))
    for names, what in ((kept, "is kept, and may cost money"), (alive, "is still there")):
        for name in names:
            print(f"{args.stack}: {name} {what}")
            _append("GITHUB_STEP_SUMMARY", f"- {args.stack}: {name} {what}\n")
    return 1 if code or alive else 0


def _recovered(stack: str, surroundings: Mapping[str, str]) -> bool:
    # Runs of one stack exclude each other, so a lock held by the runners' own user belongs to a dead run.
    return _call([*_OPS, "recover", stack, "--force-user", getpass.getuser()], surroundings) == 0


def _begin(args: argparse.Namespace) -> tuple[Path, dict[str, str]]:
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder, _environment(args.stack)


def _environment(stack: str) -> dict[str, str]:
    """The environment of the stack's programs, after a check that its backend can hold the state."""
    if url := os.environ.get("PULUMI_BACKEND_URL"):
        _check_backend(url)
    cloud = read(path_of(stack)).raw.get("cloud")
    return sessions.environment(str(cloud.get("kind", "")) if isinstance(cloud, dict) else "", stack)


def _check_backend(url: str) -> None:
    if problems := backend.problems(url):
        raise Refused(*problems)
    if not url.startswith("s3://"):
        return
    try:
        version = subprocess.run(["pulumi", "version"], text=True, capture_output=True).stdout.strip()
    except FileNotFoundError:
        raise RequestError("pulumi is not on PATH: install it") from None
    if problems := backend.problems(url, version):
        raise Refused(*problems)


def _pulumi_to(file: Path, surroundings: Mapping[str, str], *arguments: str) -> None:
    """Runs pulumi and writes its JSON to a file. Failures are read from the file: exit codes do not tell all."""
    try:
        with file.open("w") as out:
            subprocess.run(["pulumi", *arguments, "--non-interactive"], env=surroundings, stdout=out)
    except FileNotFoundError:
        raise RequestError("pulumi is not on PATH: install it") from None


def _exported(stack: str, surroundings: Mapping[str, str]) -> str:
    done = subprocess.run(["pulumi", "stack", "export", "-s", stack], env=surroundings, text=True, capture_output=True)
    if done.returncode:
        raise RequestError(printable(f"pulumi stack export: {done.stderr.strip()}"))
    return done.stdout


def _told(folder: Path, surroundings: Mapping[str, str], stack: str, command: str, options: Sequence[str]) -> int:
    """Writes what `report` or `drift` says of the run into the folder, and returns its exit code."""

    def say(form: str) -> subprocess.CompletedProcess[str]:
        words = [*_OPS, command, str(folder / _RUN), "--format", form, *options]
        return subprocess.run(words, env=surroundings, text=True, capture_output=True)

    said, data = say("markdown"), say("json")
    text, verdict, code = said.stdout, data.stdout, said.returncode
    if not MARKER.match(text):
        # The run left nothing readable. The comment must not keep describing an older one.
        why = printable(redaction.text(said.stderr.strip())) or "nothing was printed"
        print(why, file=sys.stderr)
        mark, told = marker(command, NAMESPACE, stack), plain(why[:_MOST_TOLD])
        text = f"{mark}\n### ❌ {plain(stack)}: nobody knows, the run failed\n\n{told}\n\nThe job's log says more.\n"
        verdict, code = json.dumps({"stack": stack, "verdict": "error"}), 2
    (folder / _TEXT).write_text(text)
    (folder / _VERDICT).write_text(verdict)
    print(text)
    _append("GITHUB_STEP_SUMMARY", text)
    return code


def _read(folder: str) -> tuple[str, dict[str, Any]]:
    try:
        return (Path(folder) / _TEXT).read_text(), json.loads((Path(folder) / _VERDICT).read_text())
    except OSError as error:
        raise RequestError(f"{error.filename}: {error.strerror}; `ci preview` and `ci drift` write it") from None
    except ValueError:
        raise RequestError(f"{folder}: is not what `ci preview` and `ci drift` write; run the job again") from None


def _call(command: Sequence[str], surroundings: Mapping[str, str]) -> int:
    try:
        return subprocess.run(command, env=surroundings).returncode
    except FileNotFoundError:
        raise RequestError(f"{command[0]} is not on PATH: install it") from None


def _names(text: str) -> list[str]:
    """Argument type: a JSON list of texts."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise argparse.ArgumentTypeError(f"{text}: is no JSON list of names")
    return found


def _event() -> dict[str, Any]:
    path = os.environ.get("GITHUB_EVENT_PATH")
    if not path or not Path(path).is_file():
        return {}
    try:
        found = json.loads(Path(path).read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refused(Problem("GITHUB_EVENT_PATH", path, "is no JSON object", "run it in a job of GitHub Actions"))
    return found


def _pull_request() -> Mapping[str, Any]:
    """The event's pull request; empty if it is about none."""
    return _event().get("pull_request") or {}


def _base() -> str:
    """The commit to compare the event's own with; empty if there is none."""
    base = _pull_request().get("base", {}).get("sha") or _event().get("before") or ""
    return base if base.strip("0") else ""


def _event_labels() -> list[str]:
    return [label["name"] for label in _pull_request().get("labels", [])]


def _number() -> int:
    number = _pull_request().get("number")
    if not isinstance(number, int):
        raise Refused(Problem("GITHUB_EVENT_PATH", "", "tells of no pull request", "run it in a job of one"))
    return number


def _append(variable: str, text: str) -> None:
    """Appends to one of the files through which a step talks to its runner; does nothing without that file."""
    if path := os.environ.get(variable):
        with Path(path).open("a") as file:
            file.write(text)
