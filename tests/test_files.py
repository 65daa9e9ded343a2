import hashlib
import io
import json
import pickle
import signal
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rnn_dynamics import files

ARRAYS = {
    "float64": np.array([[0.1, -0.0], [np.nan, np.inf]]),
    "float32": np.linspace(0, 1, 7, dtype=np.float32),
    "int64": np.array([np.iinfo(np.int64).min, 0, np.iinfo(np.int64).max]),
    "uint8": np.arange(256, dtype=np.uint8),
    "boolean": np.array([True, False]),
    "complex128": np.array([1 + 2j]),
    "text": np.array(["node", "Hénon", "λ"]),
    "octets": np.array([b"a", b"bcd"]),
    "time": np.array(["2026-01-02"], dtype="M8[D]"),
    "big_endian": np.array([1.5, 2.5], dtype=">f8"),
    "scalar": np.array(2.5),
    "empty": np.empty((0, 3)),
    "file": np.zeros(1),  # a keyword of numpy.savez: these two it cannot store
    "allow_pickle": np.zeros(1),
    "λ_max": np.zeros(1),
}
SETTINGS = {"b": [-3.0, -2.0], "name": "Neïmark–Sacker, λ → μ", "nested": {"steps": 50, "on": True, "none": None}}


@pytest.fixture
def stem(tmp_path):
    files.save(tmp_path / "orbit", {"x": np.arange(1000.0), "y": np.zeros((2, 3))}, {"b": -2.5}, seed=0)
    return tmp_path / "orbit"


def npy(array, allow_pickle=False):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def header(text):
    text = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def put(stem, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(f"{stem}.npz", "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)


def test_what_is_loaded_is_what_was_saved(tmp_path):
    files.save(tmp_path / "all", ARRAYS, SETTINGS, seed=7)
    saved = files.load(tmp_path / "all")
    assert saved.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        came = saved.arrays[name]
        assert (came.dtype, came.shape, came.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert came.flags.writeable
    assert saved.settings == SETTINGS
    assert saved.provenance["seed"] == 7


def test_device_arrays_python_numbers_and_fortran_order_are_saved_as_plain_arrays(tmp_path):
    matrix = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    files.save(tmp_path / "a", {"x": jnp.arange(3.0), "y": 2.0, "z": matrix[:, ::2]}, {})
    arrays = files.load(tmp_path / "a").arrays
    assert {name: array.tolist() for name, array in arrays.items()} == {"x": [0, 1, 2], "y": 2, "z": [[0, 2], [3, 5]]}


def test_nothing_at_all_can_be_saved(tmp_path):
    files.save(tmp_path / "nothing", {}, {})
    assert files.load(tmp_path / "nothing").arrays == {}


def test_same_arrays_and_settings_give_the_same_bytes(tmp_path):
    source = tmp_path / "fig.py"
    source.write_text("compute()")
    (tmp_path / "elsewhere").mkdir()
    one, two = tmp_path / "a", tmp_path / "elsewhere" / "b"
    files.save(one, ARRAYS, SETTINGS, source=source)
    shuffled = {name: np.array(ARRAYS[name], order="F") for name in reversed(ARRAYS)}
    files.save(two, shuffled, dict(reversed(SETTINGS.items())), source=source)
    for suffix in (".npz", ".json"):
        assert Path(f"{one}{suffix}").read_bytes() == Path(f"{two}{suffix}").read_bytes()
    with zipfile.ZipFile(f"{one}.npz") as archive:
        assert {(info.date_time, info.create_system) for info in archive.infolist()} == {((1980, 1, 1, 0, 0, 0), 3)}


def test_provenance_names_versions_source_dtypes_and_shapes(tmp_path):
    source = tmp_path / "fig.py"
    source.write_bytes(b"abc")
    files.save(tmp_path / "a", {"x": np.zeros((2, 0), np.float32)}, SETTINGS, source=source, seed=3)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    provenance = json.loads(text)
    assert text == json.dumps(provenance, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    # FIPS 180-4's example: the digest of "abc"; and that of no bytes.
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert provenance["source"] == {"name": "fig.py", "sha256": abc}
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert provenance["arrays"] == {"x": {"dtype": "float32", "sha256": empty, "shape": [2, 0]}}
    assert provenance["seed"] == 3
    assert provenance["settings"] == SETTINGS
    packages = {"diffrax", "equinox", "jax", "numpy", "python", "rnn_dynamics", "scipy"}
    assert provenance["versions"].keys() == packages
    assert provenance["versions"]["jax"] == jax.__version__
    assert provenance["versions"]["numpy"] == np.__version__
    assert str(tmp_path) not in text


def test_a_result_prints_in_one_line(stem):
    assert repr(files.load(stem)) == "Saved(x: float64 (1000,), y: float64 (2, 3))"


def test_the_suffix_npz_may_be_given_and_other_dots_stay(tmp_path):
    files.save(tmp_path / "w5.0.npz", {"x": np.zeros(1)}, {})
    assert {path.name for path in tmp_path.iterdir()} == {"w5.0.npz", "w5.0.json"}
    assert files.load(tmp_path / "w5.0").arrays["x"] == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "value",
    [
        np.array([None, 1]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.zeros(2, ml_dtypes.bfloat16),
        jax.random.key(0),
        [[1.0], [1.0, 2.0]],
    ],
    ids=["objects", "records", "bfloat16", "random key", "ragged"],
)
def test_what_npz_cannot_give_back_is_refused_by_name(tmp_path, value):
    with pytest.raises(ValueError, match=r"arrays\['bad'\] must"):
        files.save(tmp_path / "a", {"good": np.zeros(1), "bad": value}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["../x", "a/b", "x.npy", "", "1", 1])
def test_odd_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="names that could be Python variables"):
        files.save(tmp_path / "a", {name: np.zeros(1)}, {})


@pytest.mark.parametrize(
    "settings",
    [{"x": np.zeros(2)}, {"x": np.int64(1)}, {"x": float("nan")}, {"x": {1: 2}}, {"x": [{(1,): 2}]}, {"x": "\ud800"}],
    ids=["array", "numpy number", "nan", "number as key", "tuple as key", "half a character"],
)
def test_settings_that_are_not_json_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="settings must be JSON"):
        files.save(tmp_path / "a", {}, settings)
    circle = {}
    circle["x"] = [circle]
    with pytest.raises(ValueError, match="settings must be JSON"):
        files.save(tmp_path / "a", {}, circle)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unchecked")
def test_misuse_names_the_argument(tmp_path, stem):
    with pytest.raises(ValueError, match="arrays must be a dictionary; got list"):
        files.save(tmp_path / "a", [np.zeros(1)], {})
    with pytest.raises(ValueError, match="settings must be a dictionary; got str"):
        files.save(tmp_path / "a", {}, "b = 1")
    with pytest.raises(ValueError, match=r"path must name a file; got '.*/'"):
        files.save(f"{tmp_path}/", {}, {})
    for odd in (None, 3, b"x"):
        with pytest.raises(ValueError, match=r"path must be text or a pathlib\.Path; got"):
            files.load(odd)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ValueError, match=r"path must be a file's; .* is a folder"):
        files.load(tmp_path / "folder")
    (tmp_path / "folder.npz").rmdir()
    with pytest.raises(ValueError, match="a mask would be lost"):
        files.save(stem, {"x": np.ma.masked_less(np.arange(3.0), 1)}, {})
    with pytest.raises(ValueError, match="seed must be a whole number"):
        files.save(tmp_path / "a", {}, {}, seed=-1)
    with pytest.raises(FileNotFoundError):
        files.save(tmp_path / "a", {}, {}, source=tmp_path / "no.py")
    with pytest.raises(ValueError, match="limit must be a whole number"):
        files.load(stem, limit=1.5)
    with pytest.raises(ValueError, match="data must be bytes or a function"):
        files.write(tmp_path / "a", "text")
    with pytest.raises(ValueError, match="path must be a file's"):
        files.write(tmp_path, b"")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        files.write(tmp_path / "no" / "a", b"")
    assert {path.name for path in tmp_path.iterdir()} == {"orbit.npz", "orbit.json"}


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    program = """
import sys
from rnn_dynamics import files

def half(stream):
    stream.write(b"new" * 100_000)
    stream.flush()
    print("half", flush=True)
    sys.stdin.read()

files.write(sys.argv[1], half)
"""
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"half\n"
        assert path.read_bytes() == b"old"
        assert len(list(tmp_path.iterdir())) == 2  # the old file and the hidden half
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    files.write(path, b"new")  # what the dead writer left behind is in nobody's way
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def half(stream):
        stream.write(b"new")
        raise error

    with pytest.raises(error):
        files.write(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_ordinary_permissions_and_keeps_those_it_had(tmp_path):
    plain, written = tmp_path / "plain", tmp_path / "written"
    plain.touch()
    files.write(written, b"")
    assert written.stat().st_mode == plain.stat().st_mode
    written.chmod(0o640)
    files.write(written, b"new")
    assert stat.S_IMODE(written.stat().st_mode) == 0o640


def test_a_link_is_followed(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"old")
    link.symlink_to(path)
    files.write(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"


def test_a_missing_file_is_file_not_found(stem):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        files.load(stem.with_name("nothing"))
    Path(f"{stem}.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"orbit\.json"):
        files.load(stem)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(stem, kept):
    for suffix in (".json", ".npz"):
        path = Path(f"{stem}{suffix}")
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ValueError, match=rf"orbit\{suffix}: "):
            files.load(stem)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"x,y\n1,2\n", "not an npz archive"),
        (pickle.dumps({"x": 1}), "not an npz archive"),
        (npy(np.zeros(3)), "not an npz archive"),
        (b"PK\x03\x04 but no more", "damaged or cut short"),
    ],
    ids=["text", "pickle", "npy", "zip signature alone"],
)
def test_a_file_of_another_kind_is_refused(stem, content, complaint):
    Path(f"{stem}.npz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"orbit\.npz: {complaint}"):
        files.load(stem)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"arrays": {}, "settings": 1}', b"\xff", b"[" * 100_000])
def test_json_that_is_no_provenance_is_refused(stem, content):
    Path(f"{stem}.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"orbit\.json: .*(JSON)"):
        files.load(stem)


def test_pickled_objects_are_never_run(stem, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    put(stem, [("x.npy", npy(np.array([Trap()], dtype=object), allow_pickle=True))])
    with pytest.raises(ValueError, match=r"orbit\.npz: x\.npy has dtype object; pickled"):
        files.load(stem)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["../x.npy", "/x.npy", "a/x.npy", "x.txt", ".npy", "x.npy.npy", "x"])
def test_members_with_odd_names_are_refused(stem, name):
    put(stem, [(name, npy(np.zeros(3)))])
    with pytest.raises(ValueError, match="is not the name of an array"):
        files.load(stem)


def test_two_members_of_one_name_are_refused(stem):
    with pytest.warns(UserWarning, match="Duplicate"):
        put(stem, [("x.npy", npy(np.zeros(3))), ("x.npy", npy(np.ones(3)))])
    with pytest.raises(ValueError, match="two arrays of one name"):
        files.load(stem)


def test_other_packings_are_refused(stem):
    # LZMA lets a file ask for gigabytes of working memory, whatever its size.
    put(stem, [("x.npy", npy(np.zeros(3)))], zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match="packed in a way"):
        files.load(stem)


def bomb(stem, shape, megabytes=300):
    zeros = bytes(2**20)
    with (
        zipfile.ZipFile(f"{stem}.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"))
        for _ in range(megabytes):
            member.write(zeros)


def peak_of_refusal(stem, complaint, **options):
    tracemalloc.start()
    with pytest.raises(ValueError, match=complaint):
        files.load(stem, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_bomb_is_refused_before_memory_is_taken(stem):
    bomb(stem, (300 * 2**17,))
    assert Path(f"{stem}.npz").stat().st_size < 2**19  # 300 MiB of zeros in less than 512 KiB
    # The directory alone gives it away; zipfile's own buffers are some tens of KiB.
    assert peak_of_refusal(stem, r"expands to 3145\d+ bytes; limit allows 1000000", limit=10**6) < 2**20
    # Under the default limit of 1 GiB a header that claims less than is there gives it away.
    bomb(stem, (10,))
    assert peak_of_refusal(stem, r"x\.npy is 3145\d+ bytes; its header, float64 of shape \(10,\), says 1\d\d") < 2**20
    # A directory that claims less, too: zipfile unpacks no more than it claims, and the checksum fails.
    content = Path(f"{stem}.npz").read_bytes()
    with zipfile.ZipFile(f"{stem}.npz") as archive:
        size = archive.infolist()[0].file_size
    claimed = size - 300 * 2**20 + 80
    directory = content.rindex(b"PK\x01\x02")
    lying = content[directory:].replace(size.to_bytes(4, "little"), claimed.to_bytes(4, "little"))
    Path(f"{stem}.npz").write_bytes(content[:directory] + lying)
    assert peak_of_refusal(stem, "damaged or cut short .*Bad CRC", limit=10**6) < 2**20


@pytest.mark.parametrize(
    "shape", [f"({10**12},)", f"({2**62}, 4)", f"({10**18}, 0)", "(-1, -3)", "(True, 3.0)", "3", "((" * 200]
)
def test_a_header_that_lies_about_its_shape_is_refused(stem, shape):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    put(stem, [("x.npy", header(text) + bytes(24))])
    assert peak_of_refusal(stem, r"orbit\.npz: ") < 2**20


def test_no_damage_gets_through(stem):
    # Any eight bytes of the archive overwritten: the arrays come back whole (the damage hit nothing that is read)
    # or a ValueError names the file. Nothing else is raised, and no wrong number is ever returned.
    path, rng = Path(f"{stem}.npz"), np.random.default_rng(0)
    whole, expected = path.read_bytes(), files.load(stem).arrays
    refused = 0
    for position in rng.integers(0, len(whole) - 8, 400):
        path.write_bytes(whole[:position] + rng.bytes(8) + whole[position + 8 :])
        try:
            came = files.load(stem).arrays
        except ValueError as error:
            came = expected
            refused += "orbit.npz" in str(error)
        assert all(came[name].tobytes() == array.tobytes() for name, array in expected.items())
    assert refused > 200


def test_arrays_of_another_save_than_their_provenance_are_refused(stem, tmp_path):
    files.save(tmp_path / "other", {"x": np.arange(1000.0) + 1e-13, "y": np.zeros((2, 3))}, {"b": -2.6})
    (tmp_path / "other.npz").replace(f"{stem}.npz")  # as if a save had been killed between its two files
    with pytest.raises(ValueError, match=r"orbit\.npz and orbit\.json are not of the same save: they differ in x$"):
        files.load(stem)


def test_the_source_is_known_by_its_bytes(tmp_path):
    files.save(tmp_path / "a", {}, {}, source=__file__)
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert files.load(tmp_path / "a").provenance["source"] == {"name": "test_files.py", "sha256": digest}
