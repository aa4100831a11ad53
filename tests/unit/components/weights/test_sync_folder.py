"""The sync's program with a folder as its target, really run: from a hub, and from a bucket."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from components.weights.sync.folder import OWN, Folder
from components.weights.sync.manifest import File
from components.weights.sync.retries import Fatal, Patience
from components.weights.sync.transfer import Limits, Sync
from standins.hub import Fault
from tests.support.patience import PATIENCE_SECONDS
from tests.unit.components.conftest import MANIFEST, MODEL, SHARDS, WANTED, Room, eventually, kill

pytestmark = pytest.mark.rehearsal

ALL_THERE = "nothing to do: all 7 files, 10.0 MiB, are in the volume"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """The model's folder on a volume; it does not exist yet."""
    return tmp_path / "models" / "DeepSeek-R1"


def files(folder: Path) -> dict[str, bytes]:
    """Path to content of every file, except the program's own files."""
    found = (file for file in folder.rglob("*") if file.is_file() and OWN not in file.parts)
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def assert_whole(folder: Path) -> None:
    """The folder contains the model, nothing but the model, and a manifest that says so; no partial files are left."""
    found = files(folder)
    manifest = json.loads(found.pop(MANIFEST))
    assert found == WANTED
    listed = {each["path"]: each["sha256"] for each in manifest["files"]}
    assert listed == {path: hashlib.sha256(data).hexdigest() for path, data in WANTED.items()}
    assert not list((folder / OWN).glob("*.part"))


def fetched(room: Room) -> list[str]:
    """The files of which the hub sent bytes."""
    return sorted(path.partition("//")[2] for path in room.hub.fetched())


# --- out of a hub


def test_an_empty_volume_gets_every_file_once_and_a_manifest(room: Room, volume: Path):
    ended = room.run(FOLDER=str(volume))
    assert ended.status == 0, ended.lines
    assert ended.lines[-1] == "done: 7 files, 10.0 MiB, each checked against the hub's list"
    assert fetched(room) == sorted(path for path, data in WANTED.items() if data)
    assert_whole(volume)
    assert room.stored() == {}, "a bucket was written to"


def test_a_second_run_only_asks_for_the_hubs_list(room: Room, volume: Path):
    room.run(FOLDER=str(volume))
    room.hub.seen.clear()
    assert room.run(FOLDER=str(volume)).lines == [ALL_THERE]
    assert len(room.hub.seen) == 1 and room.hub.fetched() == []


def test_after_a_kill_no_file_is_fetched_that_had_arrived(room: Room, volume: Path):
    hold = Fault(SHARDS[0], hold=1 << 20)
    room.hub.faults.append(hold)
    process = room.start(FOLDER=str(volume), PROGRESS_SECONDS="0.02")
    try:
        assert hold.reached.wait(PATIENCE_SECONDS)
        assert any("6 of 7 files" in line for line in process.stdout), "the others do not arrive"
    finally:
        kill(process)
    assert MANIFEST not in files(volume) and SHARDS[0] not in files(volume)
    room.hub.seen.clear()
    assert room.run(FOLDER=str(volume)).status == 0
    assert fetched(room) == [SHARDS[0]]
    assert_whole(volume)


def test_what_was_put_there_by_hand_is_read_back_and_kept_if_it_is_right(room: Room, volume: Path):
    volume.mkdir(parents=True)
    (volume / SHARDS[0]).write_bytes(MODEL[SHARDS[0]])
    (volume / SHARDS[1]).write_bytes(b"y" * len(MODEL[SHARDS[1]]))
    before = (volume / SHARDS[0]).stat().st_ino
    assert room.run(FOLDER=str(volume)).status == 0
    assert SHARDS[0] not in fetched(room) and SHARDS[1] in fetched(room)
    assert (volume / SHARDS[0]).stat().st_ino == before
    assert_whole(volume)


def test_a_file_that_changed_since_its_note_is_not_trusted(room: Room, volume: Path):
    room.run(FOLDER=str(volume))
    (volume / MANIFEST).unlink()
    (volume / SHARDS[0]).write_bytes(b"z" * len(MODEL[SHARDS[0]]))
    room.hub.seen.clear()
    assert room.run(FOLDER=str(volume)).status == 0
    assert fetched(room) == [SHARDS[0]]
    assert_whole(volume)


def test_what_file_systems_and_other_downloaders_leave_does_not_matter_and_a_strange_file_does(
    room: Room, volume: Path
):
    for name in ("lost+found", ".cache/huggingface"):
        (volume / name).mkdir(parents=True)
    (volume / ".cache/huggingface/x.lock").touch()
    assert room.run(FOLDER=str(volume)).status == 0
    (volume / MANIFEST).unlink()
    (volume / "mine.bin").write_bytes(b"x")
    ended = room.run(FOLDER=str(volume))
    assert ended.status == 1 and "such as mine.bin: delete them" in ended.lines[-1]


def test_a_volume_without_room_is_named_before_anything_is_moved(tmp_path: Path):
    with pytest.raises(Fatal, match=r"^no space: 931322574.6 GiB are missing and the volume has [\d.]+ GiB free: "):
        Folder(tmp_path, "the volume").make_room([File("a", 10**18)])


class Huge:
    """A source with a file that is too large for any disk, and that must not be requested."""

    called, url, repository, revision, pinned = "the hub", "https://hub", "owner/huge", "main", False

    def files(self) -> list[File]:
        return [File("model.safetensors", 10**18)]


def test_a_model_that_does_not_fit_is_refused_before_a_byte_of_it(tmp_path: Path):
    said: list[str] = []
    folder = Folder(tmp_path, "the volume")
    patience = Patience(1, 0, said.append)
    with pytest.raises(Fatal, match="^no space: "):
        Sync(Huge(), folder, None, patience, folder.scratch, Limits(None), said.append).run()
    assert files(tmp_path) == {} and said == []


def test_hashes_are_noted_with_a_file_until_it_changes(tmp_path: Path):
    folder = Folder(tmp_path, "the volume")
    (folder.scratch / "0.part").write_bytes(b"abc")
    folder.put(folder.scratch / "0.part", "sub/a.json", {"sha256": "s", "git-sha1": "g"})
    noted = folder.hashes()["sub/a.json"]
    assert (noted["sha256"], noted["git-sha1"]) == ("s", "g") and (tmp_path / "sub/a.json").read_bytes() == b"abc"
    (tmp_path / "sub/a.json").write_bytes(b"abcd")
    assert folder.hashes() == {"sub/a.json": {}}


def test_a_volume_that_cannot_be_written_is_one_line(room: Room, tmp_path: Path):
    (tmp_path / "file").touch()
    ended = room.run(FOLDER=str(tmp_path / "file" / "model"))
    assert ended.status == 1
    assert ended.lines == [
        f"failed: {tmp_path}/file/model cannot be written (Not a directory): let the pod's user write there"
    ]


# --- out of a bucket


def fill(folder: Path, **changes: str) -> dict[str, str]:
    """Settings of a fill."""
    return {"FROM": "bucket", "FOLDER": str(folder), "CALLED": "the disk"} | changes


def test_a_disk_gets_what_the_buckets_manifest_lists_and_asks_no_hub(room: Room, volume: Path):
    room.run()
    room.hub.seen.clear()
    ended = room.run(**fill(volume))
    assert ended.status == 0, ended.lines
    assert_whole(volume)
    assert room.run(**fill(volume)).lines == ["nothing to do: all 7 files, 10.0 MiB, are in the disk"]
    assert room.hub.seen == []


@pytest.mark.soak
def test_killed_again_and_again_a_fill_gets_there_and_trusts_no_half_of_anything(room: Room, volume: Path):
    room.run()
    for arrived in (1, 3, 5):
        process = room.start(**fill(volume, PARALLEL="1"))
        try:
            eventually(lambda n=arrived, p=process: len(files(volume)) >= n or p.poll() is not None, "nothing arrives")
        finally:
            kill(process)
    assert room.run(**fill(volume)).status == 0
    assert_whole(volume)


def test_bytes_that_are_not_the_manifests_never_get_their_name(room: Room, volume: Path):
    room.run()
    (room.objects / SHARDS[0]).write_bytes(b"y" * len(MODEL[SHARDS[0]]))
    ended = room.run(**fill(volume))
    assert ended.status != 0 and SHARDS[0] in ended.lines[-1]
    assert not {SHARDS[0], MANIFEST} & files(volume).keys()


def test_a_bucket_without_a_manifest_is_not_taken_for_a_model_unless_that_is_asked_for(room: Room, volume: Path):
    room.run()
    (room.objects / MANIFEST).unlink()
    ended = room.run(**fill(volume, ATTEMPTS="2"))
    assert ended.status == 2
    assert ended.lines[-1].endswith("has no manifest: its sync has not ended; gave up after 2 attempts")
    (room.objects / ".git").mkdir()
    (room.objects / ".git/config").write_bytes(b"[core]")
    assert room.run(**fill(volume, MANIFEST="0")).status == 0
    assert {path: data for path, data in files(volume).items() if path != MANIFEST} == WANTED


def test_a_bucket_that_lost_a_file_is_not_copied(room: Room, volume: Path):
    room.run()
    (room.objects / SHARDS[1]).unlink()
    ended = room.run(**fill(volume))
    assert ended.status == 1 and ended.lines[-1].endswith("holds other files than its manifest says: sync it again")


def test_a_refused_key_and_an_empty_prefix_are_one_line(room: Room, volume: Path):
    room.run()
    ended = room.run(**fill(volume, KEY_SECRET="canary-wrong"))
    assert ended.status == 1 and ended.lines[-1].endswith("give a key that may list and read models/DeepSeek-R1/*")
    ended = room.run(**fill(volume, PREFIX="models/none", MANIFEST="0"))
    assert ended.status == 1 and ended.lines[-1].endswith("check bucket and prefix")
