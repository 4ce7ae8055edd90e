"""What a job is sent and told, and what becomes of its log and its end; without a cluster."""

import os
import zipfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.commands.cli import app
from cluster.config.schema import Config, parse
from cluster.config.sections import TrackingConfig
from cluster.errors import ClusterError, ConfigError, MetarayError
from cluster.jobs import follow, packaging
from cluster.jobs.client import Submitted
from cluster.jobs.command import Job, prepare
from cluster.runs.lasting import DRIVER
from cluster.search import folder as searches
from cluster.search.settings import load
from cluster.tracking import tracking_uri
from cluster.training.start import begin, begin_named
from helpers.folders import settle_run, settle_search

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 4},
    "meta_batch": 2,
    "eval": {"every": 2, "steps": [0, 1]},
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working tree with a configuration, a module, and what does not belong into a job."""
    root = tmp_path / "tree"
    for name in (
        *("small.yaml", "mine.py", "src/data/keep.py", "src/deep/out.bin", "src/deep/in.txt"),
        *("data/images.arrow", "runs/one/run.json", "mlruns/0/meta.yaml", "mlflow.db", "mlflow.db-wal"),
        *(".git/config", ".venv/bin/python", "src/__pycache__/x.pyc", "secret.txt", "notes/a.log", "kept/b.log"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / ".gitignore").write_text("secret.txt\n*.log\n")
    (root / "src" / "deep" / ".gitignore").write_text("/out.bin\n")
    (root / "small.yaml").write_text(yaml.safe_dump(SETTINGS))
    monkeypatch.chdir(root)
    return root


def test_a_job_is_sent_the_working_tree_without_data_runs_and_what_is_ignored(tree):
    assert set(packaging.tree(tree).files) == {
        *(".gitignore", "small.yaml", "mine.py"),
        *("src/data/keep.py", "src/deep/in.txt", "src/deep/.gitignore"),
    }


def test_ignored_files_can_be_brought_back_and_others_named(tree):
    (tree / ".gitignore").write_text("!/data/\n")
    (tree / ".rayignore").write_text("src/\n")
    (tree / "link").symlink_to(tree / "src")
    found = packaging.tree(tree).files
    assert "data/images.arrow" in found
    assert not any(name.startswith(("src", "link")) for name in found)


def test_too_large_a_tree_names_the_largest_files(tree, monkeypatch):
    for name, size in {"a.bin": 3 * 2**20, "b.bin": 2**20}.items():
        (tree / name).write_bytes(b"0" * size)
    files = packaging.tree(tree).files
    assert packaging.require_size(files) > 4 * 2**20
    monkeypatch.setattr(packaging, "LIMIT", 2**20)
    with pytest.raises(
        ConfigError, match=r"at most 1\.0 MiB, received 4\.0 MiB; .* files: a\.bin \(3\.0 MiB\), b\.bin"
    ):
        packaging.require_size(files)


def test_the_same_files_make_the_same_zip(tree, tmp_path):
    (tree / "mine.py").chmod(0o755)
    made = []
    for number in range(2):
        os.utime(tree / "mine.py", (number, number))
        target = tmp_path / f"{number}.zip"
        packaging.write_zip(packaging.tree(tree).files, target)
        made.append(target.read_bytes())
    assert made[0] == made[1]
    with zipfile.ZipFile(tmp_path / "0.zip") as archive:
        assert archive.read("src/deep/in.txt") == b"src/deep/in.txt"
        assert archive.getinfo("mine.py").external_attr >> 16 & 0o777 == 0o755


def test_a_command_is_named_and_goes_on_under_its_name(tree):
    job = prepare(["train", "small.yaml", "inner.lr=0.1", "--json"], "first", tree)
    assert (job.name, job.entrypoint) == (
        "first",
        "exec metaray train --name first small.yaml inner.lr=0.1 --json",
    )
    assert prepare(["train", "small.yaml"], None, tree).name.startswith("small-20")
    other = prepare(["evaluate", "models:/a@champion", "--steps", "0,1"], None, tree)
    assert other.name.startswith("evaluate-20")
    assert other.entrypoint == "exec metaray evaluate models:/a@champion --steps 0,1"
    assert "--name" not in prepare(["train", "--resume", "/shared/runs/x"], "x", tree).entrypoint


def test_a_command_s_words_reach_it_whole(tree):
    entrypoint = prepare(["evaluate", "x; rm -rf /", "eval.baselines=[pretrain, oracle]"], "e", tree).entrypoint
    assert entrypoint == "exec metaray evaluate 'x; rm -rf /' 'eval.baselines=[pretrain, oracle]'"


def test_paths_into_the_tree_are_made_relative_and_shared_folders_left(tree, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    words = ["train", str(tree / "small.yaml"), f"checkpoint.root={shared}"]
    assert prepare(words, "n", tree).entrypoint.endswith(f"small.yaml checkpoint.root={shared}")


REFUSED = [
    (["train", "../outside.yaml"], "expected a file inside the working tree"),
    (["train", "{tmp}/outside.yaml"], "expected a file inside the working tree"),
    (["evaluate", "runs/one"], "'runs/one' is not sent to the cluster"),
    (["train", "small.yaml", "task.root=data/images.arrow"], "'data/images.arrow' is not sent"),
    (["train", "smal.yaml"], "did you mean"),
    (["train", "--name", "x", "small.yaml"], "expected --name before '--'"),
    (["train", "small.yaml", "tracking.uri=postgresql://me:pw@host/db"], "expected a command without secrets"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_a_job_would_not_find_is_refused(tree, tmp_path, words, message):
    (tmp_path / "outside.yaml").write_text("")
    with pytest.raises(ConfigError, match=message) as raised:
        prepare([word.format(tmp=tmp_path) for word in words], None, tree)
    assert "pw" not in str(raised.value)


@pytest.mark.parametrize("kind", ["module", "package", "namespace"])
def test_modules_of_ones_own_elsewhere_go_along(tree, tmp_path, monkeypatch, kind):
    elsewhere = tmp_path / "elsewhere"
    name = f"theirs_{kind}"
    files = {
        "module": [f"{name}.py"],
        "package": [f"{name}/__init__.py", f"{name}/inner.py"],
        "namespace": [f"{name}/inner.py"],
    }[kind]
    for file in files:
        (elsewhere / file).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / file).write_text("")
    monkeypatch.syspath_prepend(elsewhere)
    words = ["train", "small.yaml", f"task.family={name}.inner:Mine", "model.name=mine:Net", "algorithm=yaml:Loader"]
    files_of_job = prepare(words, "n", tree).files
    assert set(files_of_job) - set(packaging.tree(tree).files) == set(files)


def test_modules_that_only_the_base_of_a_search_names(tree, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "based.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    (tree / "small.yaml").write_text(yaml.safe_dump(SETTINGS | {"algorithm": "based:Algorithm"}))
    for command, section in (("tune", "search"), ("compare", "compare")):
        (tree / "find.yaml").write_text(yaml.safe_dump({section: {"base": "small.yaml"}}))
        assert "based.py" in prepare([command, "find.yaml"], "n", tree).files


BAD = [
    ([], "expected a command to run, --name of a job to follow, or --stop"),
    (["--stop", "a", "--name", "b"], "expected a command to run"),
    (["--stop", "a", "--", "train", "small.yaml"], "expected a command or --stop, received both"),
    (["--", "trian", "small.yaml"], "did you mean 'train'?"),
    (["--", "submit", "--", "train"], "expected one of the commands"),
    (["--", "train", "--jsno"], "No such option"),
    (["--env", "NOT_THERE", "--", "train", "small.yaml"], "--env: expected the name of an environment variable"),
    (["--name", "../up", "--", "train", "small.yaml"], "name: expected letters"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_wrong_usage(tree, words, message):
    result = CliRunner().invoke(app, ["submit", *words])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_password_in_the_tracking_address_is_not_passed_on_unasked(tree, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hidden@host")
    result = CliRunner().invoke(app, ["submit", "--", "train", "small.yaml"])
    assert result.exit_code == 2
    assert "add --env MLFLOW_TRACKING_URI" in result.stderr
    assert "hidden" not in result.output


def submitted(status: str, exit_code: int | None = None, message: str = "") -> Submitted:
    return Submitted("n", 1, "n-1", status, exit_code, message)


@pytest.mark.parametrize(("status", "exit_code", "expected"), [("SUCCEEDED", 0, 0), ("FAILED", 1, 1), ("FAILED", 2, 2)])
def test_the_command_s_exit_status_is_the_job_s(status, exit_code, expected):
    assert follow.exit_status(submitted(status, exit_code)) == expected


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (submitted("STOPPED"), "was stopped; go on from its last checkpoint"),
        (submitted("FAILED", -9), r"its command was killed \(status -9\)"),
        (submitted("FAILED", 127), "does not find the command metaray"),
        (submitted("FAILED", None, "no such working_dir"), "did not run to its end: no such working_dir"),
    ],
)
def test_other_ends_say_what_to_do(job, message):
    with pytest.raises(MetarayError, match=message) as raised:
        follow.exit_status(job)
    assert raised.value.exit_status == 1


class Flaky:
    """A job server whose connections break, each beginning with the log's first line."""

    address = "http://127.0.0.1:1"

    def __init__(self, parts, ends):
        self._parts, self._ends = iter(parts), iter(ends)

    async def tail(self, job_id):
        for part in next(self._parts):
            if isinstance(part, Exception):
                raise part
            yield part

    def get(self, job_id):
        end = next(self._ends)
        if isinstance(end, Exception):
            raise end
        return end


def test_a_log_is_shown_once_through_broken_connections(monkeypatch):
    monkeypatch.setattr(follow, "AGAIN", 0)
    shown = []
    server = Flaky(
        [["one\n", "tw", ConnectionError()], [ConnectionError()], ["one\ntwo\n{broken\n", '{"a": 1}\nbye\n']],
        [submitted("RUNNING"), ClusterError("away"), submitted("SUCCEEDED", 0)],
    )
    job, result = follow.follow(server, submitted("PENDING"), shown.append)  # type: ignore[arg-type]
    assert (job.status, result) == ("SUCCEEDED", {"a": 1})
    assert "".join(shown) == 'one\ntwo\n{broken\n{"a": 1}\nbye\n'


def test_a_server_that_stays_away_is_given_up(monkeypatch):
    monkeypatch.setattr(follow, "AGAIN", 0)
    monkeypatch.setattr(follow, "LOST_AFTER", 0.0)
    server = Flaky([[ConnectionError()]] * 9, [ClusterError("away")] * 9)
    with pytest.raises(ClusterError, match="job n may go on"):
        follow.follow(server, submitted("RUNNING"), print)  # type: ignore[arg-type]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    root = {"checkpoint": {"root": str(tmp_path / "runs")}, "tracking": {"uri": f"sqlite:///{tmp_path / 'm.db'}"}}
    return parse(SETTINGS | root)


def test_a_named_run_is_begun_once(config):
    folder = settle_run(begin_named(config, "one").folder, config)
    assert folder.path.name == "one"
    written = (folder.path / "run.json").read_bytes()
    assert begin_named(config, "one").folder.path == folder.path
    assert (folder.path / "run.json").read_bytes() == written
    other = config.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="seed: 0 there, 1 here"):
        begin_named(other, "one")
    for name in ("", "a/b", "..", "-x"):
        with pytest.raises(ConfigError, match="name: expected letters"):
            begin_named(config, name)


def test_a_named_search_is_begun_once(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(SETTINGS))
    raw = {
        "search": {
            "base": "base.yaml",
            "space": {"inner.lr": {"choice": [0.1, 0.2]}},
            "trials": 2,
            "metric": "val/mse_1",
        },
        "checkpoint": {"root": str(tmp_path / "runs")},
    }
    (tmp_path / "find.yaml").write_text(yaml.safe_dump(raw))
    search = load(tmp_path / "find.yaml")
    folder = settle_search(searches.plan_named(search, "found"), search)
    written = (folder.path / "search.json").read_bytes()
    assert searches.plan_named(load(tmp_path / "find.yaml", ["search.trials=3"]), "found").path == folder.path
    assert (folder.path / "search.json").read_bytes() == written
    with pytest.raises(ConfigError, match="the search is of other settings"):
        searches.plan_named(load(tmp_path / "find.yaml", ["seed=6"]), "found")


def test_a_search_in_a_job_is_not_kept_at_a_uri(tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(SETTINGS))
    search = {"base": "base.yaml", "space": {"inner.lr": {"choice": [0.1, 0.2]}}, "trials": 2, "metric": "val/mse_1"}
    raw = {"search": search, "checkpoint": {"root": "s3://bucket/runs"}, "tracking": {"uri": "http://127.0.0.1:5000"}}
    (tmp_path / "find.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DRIVER, "{}")
    for make in (searches.plan_named, searches.plan):
        with pytest.raises(ConfigError, match="expected a folder that all nodes share"):
            make(load(tmp_path / "find.yaml"), "lost")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["train", "tune", "compare"])
def test_a_name_and_a_run_to_resume_exclude_each_other(tree, command):
    result = CliRunner().invoke(app, [command, "--resume", "x", "--name", "y"])
    assert (result.exit_code, "received both" in result.stderr) == (2, True)


def test_nothing_in_a_job_lies_where_it_would_be_lost(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    short = {"checkpoint": config.checkpoint.model_copy(update={"root": "runs"})}
    for inside in (False, True):
        if inside:
            monkeypatch.setenv(DRIVER, "{}")
            with pytest.raises(ConfigError, match=r"checkpoint\.root: expected a folder that outlives the job"):
                begin(config.model_copy(update=short), "lost")
            for uri in (None, "sqlite:///mlflow.db"):
                with pytest.raises(ConfigError, match=r"tracking\.uri: expected a server"):
                    tracking_uri(TrackingConfig(uri=uri))
            nowhere = {"tracking": config.tracking.model_copy(update={"uri": None})}
            with pytest.raises(ConfigError, match=r"tracking\.uri: expected a server"):
                begin(config.model_copy(update=nowhere), "lost")
            assert not (tmp_path / "runs").exists()
            monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
            assert tracking_uri(TrackingConfig()) == "http://127.0.0.1:5000"
        else:
            assert tracking_uri(TrackingConfig()) == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_an_empty_tree_can_be_sent(tmp_path):
    job = Job("n", "exec metaray evaluate models:/a/1", packaging.tree(tmp_path).files, 0)
    packaging.write_zip(job.files, tmp_path / "x.zip")
    assert zipfile.ZipFile(tmp_path / "x.zip").namelist() == [".metaray"]


KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
BY_NAME = (
    *(".env", ".env.production", "deploy/prod.env", ".ENV.local", ".envrc", ".netrc", ".pgpass", ".npmrc", ".pypirc"),
    *("id_rsa", "keys/id_ed25519", "ID_RSA", "server.pem", "a/b/host.KEY", "store.p12", ".aws/credentials"),
    *(".ssh/config", ".kube/config", ".docker/config.json", ".git-credentials", "secrets.yaml", "credentials.json"),
    *("client_secret_1.json", "terraform.tfvars", "auth_token", ".bash_history"),
)
BY_LOOK = {
    "notes.txt": KEY,
    "src/deploy.py": f'KEY = """{KEY}"""',
    "wide.txt": KEY.encode("utf-16"),
    "aws.md": "the key is AKIAIOSFODNN7ABCDEFG",
    "s.py": "AWS_SECRET_ACCESS_KEY = 'wJalrXUtnFEMIK7MDENGbPxRfiCYabcdefghij01'",
    "hub.ipynb": '{"source": "ghp_0123456789abcdefghijABCDEFGHIJ012345"}',
    "slack.sh": "curl -H 'x: xoxb-123456789012-abcdef'",
    "hf.py": "login('hf_abcdefghijklmnopqrstuvwxyz0123')",
    "jwt.txt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "gcp.json": '{"type": "service_account", "private_key_id": "x"}',
    "db.yaml": "db:\n  password: hunter2\n",
    "app.ini": "[db]\nurl = postgresql://me:hunter2@host/db\n",
}
SENT = {
    ".env.example": "PASSWORD=changeme\n",
    "id_rsa.pub": "ssh-rsa AAAA me@host\n",
    "doc.md": "use postgresql://me:pw@host/db, password: hunter2\n",
    "read.py": "password = os.environ['PASSWORD']\n",
    "settings.yaml": "password: ${PASSWORD}\ntoken_size: 3\n",
    "tokens.py": "TOKEN = 'cls'\n",
}


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_secrets_are_not_sent_by_name_or_by_look(tmp_path):
    write(tmp_path, dict.fromkeys(BY_NAME, "x") | BY_LOOK | SENT)
    found = packaging.tree(tmp_path)
    assert set(found.files) == set(SENT)
    assert set(found.left_out) == {*BY_NAME, *BY_LOOK}
    assert found.left_out[".env"] == "has the name of a file with secrets"
    assert found.left_out["notes.txt"] == "holds a private key"
    assert "hunter2" not in str(found.left_out)


def test_a_file_that_is_no_secret_is_brought_back_by_its_whole_path_alone(tmp_path):
    write(tmp_path, {"tests/ca.pem": "x", "b.pem": "x", "c.txt": KEY, ".env": "x", ".gitignore": "!.env\n!*\n"})
    (tmp_path / ".rayignore").write_text("!/tests/ca.pem\n!*.pem\n!c.txt\n")
    assert set(packaging.tree(tmp_path).files) == {"tests/ca.pem", "c.txt", ".gitignore", ".rayignore"}


@pytest.mark.parametrize("target", ["file", "folder", "chain", "absolute"])
def test_links_out_of_the_tree_are_refused(tree, tmp_path, target):
    write(tmp_path / "outside", {"a.txt": "hidden"})
    (tree / "inner").symlink_to(tmp_path / "outside" / "a.txt")
    links = {"file": "../outside/a.txt", "folder": "../outside", "chain": "inner", "absolute": tmp_path / "outside"}
    (tree / "src" / "link").symlink_to(Path("..") / links[target] if target != "absolute" else links[target])
    if target != "chain":
        (tree / "inner").unlink()
    with pytest.raises(ConfigError, match=r"expected links to files of .*src/link -> .*outside.*\.rayignore"):
        prepare(["train", "small.yaml"], "n", tree)
    (tree / ".rayignore").write_text("link\n/inner\n")
    assert "src/link" not in prepare(["train", "small.yaml"], "n", tree).files


def test_links_within_the_tree_are_sent_as_files_unless_they_hide_a_secret(tree):
    (tree / "here.yaml").symlink_to("small.yaml")
    (tree / ".env").write_text("x")
    (tree / "plain.txt").symlink_to(".env")
    (tree / "gone.txt").symlink_to("nothing")
    (tree / "loop").symlink_to("loop")
    (tree / "folder").symlink_to("src")
    found = packaging.tree(tree)
    assert found.files["here.yaml"] == tree / "small.yaml"
    assert found.left_out == {
        ".env": "has the name of a file with secrets",
        "plain.txt": "has the name of a file with secrets",
        "gone.txt": "is a link to nothing",
        "loop": "is a link to nothing",
        "folder": "is a link to a folder",
    }


def test_a_file_that_becomes_a_link_is_not_followed(tree, tmp_path):
    files = packaging.tree(tree).files
    (tmp_path / "hidden").write_text("hidden")
    (tree / "mine.py").unlink()
    (tree / "mine.py").symlink_to(tmp_path / "hidden")
    with pytest.raises(OSError, match=r"mine\.py"):
        packaging.write_zip(files, tmp_path / "x.zip")


def test_modules_outside_the_tree_are_sent_without_their_secrets(tmp_path):
    write(tmp_path / "mine", {"__init__.py": "", ".env": "x", "a.py": KEY})
    found = packaging.module_files(tmp_path / "mine" / "__init__.py")
    assert (set(found.files), set(found.left_out)) == ({"mine/__init__.py"}, {"mine/.env", "mine/a.py"})
    assert packaging.module_files(tmp_path / "mine" / "a.py").left_out == {"a.py": "holds a private key"}


def test_a_command_that_needs_a_secret_file_says_why_it_is_not_there(tree):
    (tree / "small.yaml").write_text(yaml.safe_dump(SETTINGS) + "# ghp_0123456789abcdefghijABCDEFGHIJ012345\n")
    with pytest.raises(ConfigError, match=r"'small\.yaml' is not sent to the cluster: it holds a key or token"):
        prepare(["train", "small.yaml"], "n", tree)


@pytest.mark.parametrize(
    "words",
    [
        ["--env", "PASSWORD=hidden", "--", "train", "small.yaml"],
        ["--", "train", "small.yaml", "--password", "hidden"],
        ["--", "train", "small.yaml", "task.password=hidden"],
        ["--", "train", "small.yaml", "task.root=https://host/p?code=hidden"],
        ["--", "train", "small.yaml", "tracking.uri=postgresql://me:my hidden word@host/db"],
    ],
)
def test_no_secret_is_taken_on_the_command_line(tree, words):
    result = CliRunner().invoke(app, ["submit", *words])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "hidden" not in result.output
