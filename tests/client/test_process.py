"""Does a run know its commit, its command line and its name without asking anybody?"""

import shutil
import subprocess

import pytest

from energyd_client import process


def git(folder, *arguments):
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", *arguments],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    assert shutil.which("git"), "git is needed to make the repositories that the client reads by hand"
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    return folder


def test_the_commit_of_a_checkout_is_read_by_hand_from_any_subfolder(repository):
    (repository / "a" / "b").mkdir(parents=True)
    assert process.git_commit(repository / "a" / "b") == git(repository, "rev-parse", "HEAD")


def test_the_commit_is_found_among_packed_refs_and_on_a_detached_head(repository):
    head = git(repository, "rev-parse", "HEAD")
    git(repository, "pack-refs", "--all")
    assert process.git_commit(repository) == head
    git(repository, "checkout", "-q", "--detach")
    assert process.git_commit(repository) == head


def test_the_commit_of_a_linked_worktree_is_its_own(repository, tmp_path):
    git(repository, "worktree", "add", "-q", str(tmp_path / "tree"), "-b", "other")
    git(tmp_path / "tree", "commit", "-q", "--allow-empty", "-m", "two")
    mine = git(tmp_path / "tree", "rev-parse", "HEAD")
    assert process.git_commit(tmp_path / "tree") == mine != process.git_commit(repository)


def test_outside_of_git_and_before_the_first_commit_there_is_no_commit(tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    git(folder, "init", "-q")
    assert process.git_commit(folder) is None
    (folder / ".git" / "HEAD").write_text("ref: ../../../etc/passwd\n")
    assert process.git_commit(folder) is None


def test_secrets_on_the_command_line_are_masked_and_tokenizers_are_not():
    argv = [
        "train.py",
        "--hf-token",
        "abc",
        "--api_key=def",
        "--tokenizer",
        "gpt2",
        "--max-tokens",
        "5",
        "lr=1e-3",
    ]
    shown = process.command_line(argv)
    assert shown == "train.py --hf-token *** --api_key=*** --tokenizer gpt2 --max-tokens 5 lr=1e-3"


def test_client_ids_differ_each_time():
    assert len({process.new_client_id() for _ in range(100)}) == 100
