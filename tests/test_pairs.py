import copy
import dataclasses
import json
import pickle
import zipfile

import numpy as np
import pytest

from xplique_dirpairs.pairs import WELL_CONDITIONED, DirectionPairs, regularised_inverse

D, I = 7, 3
OFF = ("absent", "undecided")
both_forms = pytest.mark.parametrize("off", OFF)


def make(seed=0, concepts=I, channels=D, scale=1.0):
    """Pairs with filters near signal vectors, margins of very different size, all values set."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(concepts, channels))
    if concepts <= channels:
        rows = np.linalg.qr(rows.T)[0].T
    margins = rng.uniform(0.05, 3.0, size=(concepts, 1))
    biases = rng.normal(0.5, 0.3, concepts) / margins[:, 0]
    return DirectionPairs(
        filters=rows / margins,
        biases=biases,
        signals=scale * (rows + 0.1 * rng.normal(size=rows.shape)),
        mean=rng.normal(size=channels),
        absent_levels=biases - 1.0 / margins[:, 0],
        recurrence=rng.uniform(size=concepts),
    )


def features(shape=(5, 2, 3), channels=D, seed=1, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(*shape, channels)).astype(dtype)


@pytest.fixture(params=range(3))
def pairs(request):
    return make(request.param)


@pytest.fixture
def ill_conditioned():
    signals = np.eye(3, 4) + 0.0
    signals[1] = signals[0] + 1e-3 * signals[1]
    return DirectionPairs(signals, np.zeros(3), signals, np.zeros(4), -np.ones(3))


# ------------------------------------------------------------------ the second writing


def test_reading_is_the_formulas_of_the_method(pairs):
    x = features((4,))
    z, y, alpha, u, v = (np.zeros((4, I)) for _ in range(5))
    filters, signals = pairs.filters.astype(float), pairs.signals.astype(float)
    inverse = np.linalg.pinv(filters @ signals.T)
    for p in range(4):
        for i in range(I):
            z[p, i] = sum(filters[i, d] * x[p, d] for d in range(D))
            y[p, i] = 1 / (1 + np.exp(-(z[p, i] - pairs.biases[i])))
            gain = sum(filters[i, d] * signals[i, d] for d in range(D))
            alpha[p, i] = sum(filters[i, d] * (x[p, d] - pairs.mean[d]) for d in range(D)) / gain
            u[p, i] = max(z[p, i] - pairs.absent_levels[i], 0.0)
        v[p] = inverse @ (z[p] - pairs.biases)
    for found, slow in [
        (pairs.project(x), z),
        (pairs.detect(x), y),
        (pairs.signal_values(x), alpha),
        (pairs.coefficients(x), u),
        (pairs.coefficients(x, off="undecided"), v),
        (pairs.margins, [1 / np.sqrt(sum(w * w)) for w in filters]),
    ]:
        np.testing.assert_allclose(found, slow, rtol=1e-5, atol=1e-5)


def test_writing_is_the_formulas_of_the_method(pairs):
    filters, signals = pairs.filters.astype(float), pairs.signals.astype(float)
    basis = signals.T @ np.linalg.inv(filters @ signals.T)
    np.testing.assert_allclose(pairs.bank(), basis.T, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(pairs.bank("undecided"), pairs.signals)
    x = features((4,))
    np.testing.assert_allclose(pairs.steer(x, 1, 5.0), x + 5 * signals[1], rtol=1e-6)
    chosen = [2, 0]
    part = signals[chosen].T @ np.linalg.inv(filters[chosen] @ signals[chosen].T)
    slow = [row - part @ np.maximum(filters[chosen] @ row - pairs.biases[chosen], 0) for row in x]
    np.testing.assert_allclose(pairs.suppress(x, chosen), slow, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------ what it is for


def cases():
    return {
        "well-conditioned": make(0),
        "one concept": make(1, concepts=1),
        "as many as channels": make(2, concepts=D),
        "more than channels": make(3, concepts=2 * D),
    }


@both_forms
@pytest.mark.parametrize("case", cases())
def test_coefficients_and_residual_give_the_features_back(case, off):
    pairs, x = cases()[case], features()
    u = pairs.coefficients(x, off)
    combined = pairs.combine(u, off)
    np.testing.assert_allclose(combined, u @ pairs.bank(off), rtol=1e-6)
    # the residual depends on u: switched back on, nothing may be missing
    off_state = x - combined
    np.testing.assert_allclose(off_state + pairs.combine(u, off), x, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_all_concepts_absent_projections_are_at_their_absent_level_at_most(seed):
    pairs, x = make(seed), features()
    off_state = x - pairs.combine(pairs.coefficients(x))
    z = np.minimum(pairs.project(x), pairs.absent_levels)
    np.testing.assert_allclose(pairs.project(off_state), z, atol=2e-4)


@pytest.mark.parametrize("seed", range(5))
def test_all_concepts_undecided_every_detector_is_on_its_hyperplane(seed):
    pairs, x = make(seed), features()
    off_state = x - pairs.combine(pairs.coefficients(x, "undecided"), "undecided")
    np.testing.assert_allclose(pairs.detect(off_state), 0.5, atol=1e-4)


def test_switching_one_concept_off_moves_no_other_projection(pairs):
    x = features()
    before = pairs.project(x)
    for i in range(I):
        u = pairs.coefficients(x)
        u[..., [j for j in range(I) if j != i]] = 0.0
        moved = pairs.project(x - pairs.combine(u)) - before
        moved[..., i] = 0.0
        np.testing.assert_allclose(moved, 0.0, atol=1e-4)


def test_absent_coefficients_are_never_negative_and_undecided_ones_are_signed(pairs):
    x = features((400,))
    assert (pairs.coefficients(x) >= 0).all()
    assert (pairs.coefficients(x, "undecided") < 0).any()


def test_where_it_is_well_conditioned_the_bank_is_dual_to_the_filters(pairs):
    assert 1.0 <= pairs.condition_number <= WELL_CONDITIONED and pairs.is_well_conditioned
    product = pairs.filters.astype(float) @ pairs.bank().astype(float).T
    np.testing.assert_allclose(product, np.eye(I), atol=1e-4)
    assert pairs.bank_error < 1e-4


def test_margins_do_not_enter_the_condition_number():
    plain = make()
    factor = np.array([[1e-3], [1.0], [1e3]])
    scaled = DirectionPairs(
        plain.filters * factor, plain.biases, plain.signals, plain.mean, plain.absent_levels
    )
    assert scaled.condition_number == pytest.approx(plain.condition_number, rel=1e-5)


def test_an_ill_conditioned_set_falls_back_and_reports_how_far_it_is_off(ill_conditioned):
    pairs = ill_conditioned
    assert pairs.condition_number > 1000 and not pairs.is_well_conditioned
    exact = np.linalg.inv(pairs.filters @ pairs.signals.T)
    assert np.abs(pairs.cross_inverse).max() < 0.1 * np.abs(exact).max(), "regularised"
    slow = np.abs(pairs.filters @ pairs.bank().T - np.eye(3)).max()
    assert pairs.bank_error == pytest.approx(slow, rel=1e-4)
    assert pairs.bank_error > 0.1


def test_more_concepts_than_channels_fall_back_and_say_so():
    pairs = make(concepts=2 * D)
    assert pairs.condition_number == float("inf") and not pairs.is_well_conditioned
    assert np.isfinite(pairs.bank()).all() and pairs.bank_error > 0.1


def test_the_regularised_inverse_is_the_inverse_with_small_singular_values_damped(rng):
    gram = rng.normal(size=(2, 4, 4))
    for one, found in zip(gram, regularised_inverse(gram), strict=True):
        left, s, right = np.linalg.svd(one)
        np.testing.assert_allclose(found, (right.T * (s / (s**2 + 1e-4))) @ left.T, atol=1e-9)


def test_suppressed_concepts_are_not_detected_and_positions_without_them_stay(pairs):
    x = features((300,))
    suppressed = pairs.suppress(x, [0, 2])
    z = pairs.project(suppressed)[:, [0, 2]]
    before = pairs.project(x)[:, [0, 2]]
    np.testing.assert_allclose(z, np.minimum(before, pairs.biases[[0, 2]]), atol=2e-4)
    untouched = (before <= pairs.biases[[0, 2]]).all(axis=1)
    assert 0 < untouched.sum() < 300
    np.testing.assert_array_equal(suppressed[untouched], x[untouched])
    clipped = pairs.suppress(x, [0, 2], limits=(0.0, None))
    np.testing.assert_array_equal(clipped, np.maximum(suppressed, 0.0))


def test_suppressing_takes_one_concept_or_the_same_one_twice(pairs):
    x = features()
    np.testing.assert_array_equal(pairs.suppress(x, 1), pairs.suppress(x, [1]))
    np.testing.assert_array_equal(pairs.suppress(x, [2, 1, 2]), pairs.suppress(x, [2, 1]))


def test_suppressing_nothing_changes_nothing(pairs):
    np.testing.assert_array_equal(pairs.suppress(features(), []), features())


# ------------------------------------------------------------------ invariances


def test_permuting_the_concepts_permutes_what_is_read(pairs):
    order = np.array([2, 0, 1])
    turned = DirectionPairs(
        pairs.filters[order],
        pairs.biases[order],
        pairs.signals[order],
        pairs.mean,
        pairs.absent_levels[order],
    )
    x = features()
    for read in ("project", "detect", "signal_values"):
        found = getattr(turned, read)(x)
        np.testing.assert_allclose(found, getattr(pairs, read)(x)[..., order], rtol=1e-6)
    for off in OFF:
        u, v = turned.coefficients(x, off), pairs.coefficients(x, off)
        np.testing.assert_allclose(u, v[..., order], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            turned.combine(u, off), pairs.combine(v, off), rtol=1e-5, atol=1e-5
        )


READINGS = {
    "project": lambda pairs, x: pairs.project(x),
    "detect": lambda pairs, x: pairs.detect(x),
    "signal_values": lambda pairs, x: pairs.signal_values(x),
    "absent": lambda pairs, x: pairs.coefficients(x, "absent"),
    "undecided": lambda pairs, x: pairs.coefficients(x, "undecided"),
    "suppress": lambda pairs, x: pairs.suppress(x, [0, 1]),
    "steer": lambda pairs, x: pairs.steer(x, 0, 2.0),
}


@pytest.mark.parametrize("name", READINGS)
def test_leading_axes_and_batches_do_not_matter(name, pairs):
    read, x = READINGS[name], features()
    flat = read(pairs, x.reshape(-1, D))
    np.testing.assert_allclose(read(pairs, x).reshape(flat.shape), flat, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(read(pairs, x[0, 0, 0]), flat[0], rtol=1e-9, atol=1e-9)
    one_by_one = np.concatenate([read(pairs, x[n : n + 1]) for n in range(len(x))])
    np.testing.assert_allclose(one_by_one, read(pairs, x), rtol=1e-9, atol=1e-9)
    assert read(pairs, x[:0]).shape == (0, *read(pairs, x).shape[1:])


@pytest.mark.parametrize("name", READINGS)
def test_single_precision_stays_and_is_near_double(name, pairs):
    read, x = READINGS[name], features()
    single = read(pairs, x.astype(np.float32))
    assert single.dtype == np.float32 and read(pairs, x).dtype == np.float64
    np.testing.assert_allclose(single, read(pairs, x), rtol=1e-4, atol=1e-4)
    assert read(pairs, (10 * x).astype(np.int64)).dtype == np.float32
    assert read(pairs, x.astype(np.float16)).dtype == np.float32
    assert read(pairs, x[0].tolist()).shape == read(pairs, x[0]).shape


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", READINGS)
def test_features_that_are_not_finite_are_refused(name, bad, pairs):
    x = features()
    x[1, 1, 1, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        READINGS[name](pairs, x)
    with pytest.raises(ValueError, match="NaN or infinite"):
        pairs.suppress(x, [])


@pytest.mark.parametrize("name", READINGS)
def test_features_that_are_not_real_numbers_are_refused(name, pairs):
    for x in (features() + 0j, np.full((2, D), "1"), [None] * D):
        with pytest.raises(ValueError, match="features must be real numbers"):
            READINGS[name](pairs, x)
    with pytest.raises(ValueError, match="coefficients must be real numbers"):
        pairs.combine(np.ones(I, complex))


@pytest.mark.parametrize("amount", [np.nan, -np.inf])
def test_an_amount_that_is_not_finite_is_refused(amount, pairs):
    with pytest.raises(ValueError, match="amount must be finite"):
        pairs.steer(features(), 0, amount)


def test_detection_neither_overflows_nor_warns():
    sharp = DirectionPairs(1e4 * np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), np.zeros(2))
    np.testing.assert_array_equal(sharp.detect([[9.0, -9.0]]), [[1.0, 0.0]])


def test_signal_vectors_are_normalised_and_keep_their_direction():
    pairs, long = make(), make(scale=1e3)
    np.testing.assert_allclose(np.linalg.norm(pairs.signals, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(long.signals, pairs.signals, rtol=1e-5)


def test_the_length_of_signal_vectors_does_not_matter_however_short_they_are():
    np.testing.assert_allclose(make(scale=1e-25).signals, make().signals, rtol=1e-5)


# ------------------------------------------------------------------ a value


def test_pairs_neither_follow_the_arrays_they_were_made_of_nor_can_be_written_to():
    filters = np.eye(2, dtype=np.float32)
    pairs = DirectionPairs(filters, np.zeros(2), np.eye(2), np.zeros(2), np.zeros(2))
    filters[:] = 5.0
    np.testing.assert_array_equal(pairs.filters, np.eye(2))
    for name in ("filters", "biases", "signals", "mean", "absent_levels"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(pairs, name)[0] = 1.0
    with pytest.raises(AttributeError):
        pairs.filters = filters


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda pairs: pickle.loads(pickle.dumps(pairs))]
)
@pytest.mark.parametrize("recurrence", [True, False])
def test_copies_are_the_same_bit_by_bit_and_cannot_be_written_to_either(copied, recurrence):
    pairs = make() if recurrence else dataclasses.replace(make(), recurrence=None)
    twin = copied(pairs)
    assert same(twin, pairs) and (twin.recurrence is None) is not recurrence
    for name in ("filters", "biases", "signals", "mean", "absent_levels"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(twin, name)[0] = 1.0


@pytest.mark.parametrize("derived", ["bank", "margins", "cross_inverse"])
def test_what_is_derived_from_pairs_cannot_be_written_to_either(derived):
    pairs = make()
    array = pairs.bank() if derived == "bank" else getattr(pairs, derived)
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0.0


def test_they_say_how_many_they_are():
    assert (make().number_of_concepts, make().channels) == (I, D)
    assert repr(make()) == "DirectionPairs(3 concepts, 7 channels)"


GOOD = dict(
    filters=np.eye(2, 4),
    biases=np.zeros(2),
    signals=np.eye(2, 4),
    mean=np.zeros(4),
    absent_levels=np.zeros(2),
    recurrence=np.ones(2),
)


@pytest.mark.parametrize("name", GOOD)
def test_values_of_a_wrong_shape_or_not_finite_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name}.*must have shape"):
        DirectionPairs(**{**GOOD, name: np.ones((3, 3, 3))})
    for bad in (np.nan, np.inf):
        array = GOOD[name].copy()
        array.flat[0] = bad
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            DirectionPairs(**{**GOOD, name: array})


@pytest.mark.parametrize("values", [np.ones(2, complex), ["a", "b"], None])
def test_values_that_are_not_real_numbers_are_refused_by_name(values):
    with pytest.raises(ValueError, match="biases must be real numbers"):
        DirectionPairs(**{**GOOD, "biases": values})


@pytest.mark.parametrize("name", ["filters", "signals"])
def test_directions_of_no_length_are_refused_by_row(name):
    array = GOOD[name].copy()
    array[1] = 0.0
    with pytest.raises(ValueError, match=rf"{name} must not be zero, but rows \[1\]"):
        DirectionPairs(**{**GOOD, name: array})


@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_no_concepts_or_no_channels_are_refused(shape):
    with pytest.raises(ValueError, match="filters must have shape"):
        DirectionPairs(**{**GOOD, "filters": np.ones(shape)})


def test_features_coefficients_and_concepts_that_do_not_fit_are_refused(pairs):
    for read in READINGS.values():
        with pytest.raises(ValueError, match=r"7 channels.*\(2, 6\)"):
            read(pairs, np.ones((2, 6)))
        with pytest.raises(ValueError, match="7 channels"):
            read(pairs, 3.0)
    with pytest.raises(ValueError, match=r"3 concepts.*\(2, 4\)"):
        pairs.combine(np.ones((2, 4)))
    for concept in (-1, I):
        with pytest.raises(ValueError, match=f"no concept {concept}.*0 to 2"):
            pairs.steer(features(), concept, 1.0)
        with pytest.raises(ValueError, match=f"no concept {concept}"):
            pairs.suppress(features(), [0, concept])
    for call, values in ((pairs.coefficients, features()), (pairs.combine, np.ones(I))):
        with pytest.raises(ValueError, match="'absent' or 'undecided', not 'of'"):
            call(values, off="of")
    with pytest.raises(ValueError, match="not None"):
        pairs.bank(None)


# ------------------------------------------------------------------ files


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "saved.pairs"
    make().save(path)
    return path


def same(first, second):
    return all(
        (a is None and b is None) or np.array_equal(a, b)
        for a, b in ((getattr(first, n), getattr(second, n)) for n in GOOD)
    )


@pytest.mark.parametrize("name", ["pairs", "pairs.npz", "pairs.v1.bin"])
def test_saved_pairs_come_back_bit_by_bit_under_the_very_name(name, tmp_path):
    make().save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert same(DirectionPairs.load(str(tmp_path / name)), make())


def test_pairs_made_of_a_pair_s_own_arrays_are_the_same_bit_by_bit(rng):
    # normalising rows that are unit up to rounding would move some by their last bit
    directions = rng.normal(size=(200, 8))
    first = DirectionPairs(directions, np.zeros(200), directions, np.zeros(8), np.zeros(200))
    arrays = {field.name: getattr(first, field.name) for field in dataclasses.fields(first)}
    assert same(DirectionPairs(**arrays), first)


def test_recurrence_may_be_missing(tmp_path):
    pairs = DirectionPairs(**{**GOOD, "recurrence": None})
    pairs.save(tmp_path / "p")
    assert same(DirectionPairs.load(tmp_path / "p"), pairs)


def test_the_file_holds_plain_arrays_and_no_pickle(file):
    with np.load(file, allow_pickle=False) as archive:
        assert set(archive.files) == {"header", *GOOD}
        assert all(archive[name].dtype == np.float32 for name in GOOD)
        assert json.loads(str(archive["header"]))["version"] == 1


def test_a_truncated_file_is_refused(file):
    content = file.read_bytes()
    for length in (0, 1, 10, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match="damaged"):
            DirectionPairs.load(file)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_is_refused_or_did_no_harm(file):
    content, refused = file.read_bytes(), 0
    for place in range(0, len(content), 7):
        for bit in (1, 64):
            damaged = bytearray(content)
            damaged[place] ^= bit
            file.write_bytes(damaged)
            try:
                loaded = DirectionPairs.load(file)
            except ValueError as error:
                assert str(file) in str(error)
                refused += 1
            else:
                lost = loaded.recurrence is None  # a file without it looks like this one
                assert lost or same(loaded, make()), f"bit {bit} of byte {place}"
    assert refused > len(content) // 14


def test_a_file_that_lost_its_recurrence_is_refused(file):
    rewrite(file, recurrence=None)
    with pytest.raises(ValueError, match="damaged"):
        DirectionPairs.load(file)


def rewrite(file, **changes):
    with np.load(file) as archive:
        arrays = {**{name: archive[name] for name in archive.files}, **changes}
    with open(file, "wb") as out:
        np.savez(out, **{name: array for name, array in arrays.items() if array is not None})


def test_a_file_of_a_newer_format_says_that_an_update_is_needed(file):
    header = {"format": "xplique_dirpairs.DirectionPairs", "version": 2}
    rewrite(file, header=np.array(json.dumps(header)), something_new=np.zeros(3))
    with pytest.raises(ValueError, match=r"version 2.*up to 1.*update"):
        DirectionPairs.load(file)


@pytest.mark.parametrize(
    "changes",
    [
        dict(biases=None),
        dict(surplus=np.zeros(2)),
        dict(biases=np.zeros(5)),
        dict(mean=np.full(D, np.nan)),
        dict(biases=np.array(["a", "b", "c"])),
    ],
    ids=str,
)
def test_a_file_with_other_arrays_is_refused(changes, file):
    rewrite(file, **changes)
    with pytest.raises(ValueError, match=rf"{file} is damaged"):
        DirectionPairs.load(file)


@pytest.mark.parametrize(
    "header", [None, np.array("no json"), np.array("[1]"), np.array('{"format": "x"}'), np.ones(2)]
)
def test_an_archive_without_our_header_is_foreign(header, file):
    rewrite(file, header=header)
    with pytest.raises(ValueError, match="not a file of direction pairs"):
        DirectionPairs.load(file)


def test_an_archive_of_another_kind_is_foreign(file):
    rewrite(file, header=np.array('{"format": "other.Thing", "version": 1}'))
    with pytest.raises(ValueError, match=r"not a file of direction pairs.*'other.Thing'"):
        DirectionPairs.load(file)


def test_other_files_are_foreign(tmp_path):
    path = tmp_path / "other"
    path.write_text("filters, biases\n1, 2\n")
    with pytest.raises(ValueError, match="not a file of direction pairs"):
        DirectionPairs.load(path)
    with open(path, "wb") as out:
        np.save(out, np.eye(3))
    with pytest.raises(ValueError, match="not a file of direction pairs"):
        DirectionPairs.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ValueError, match="not a file of direction pairs"):
        DirectionPairs.load(path)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was loaded')",))


def test_no_pickle_in_a_file_is_ever_loaded(file):
    rewrite(file, mean=np.array([Evil()], dtype=object))
    with pytest.raises(ValueError, match="damaged"):
        DirectionPairs.load(file)


def test_no_file_or_a_folder_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of direction pairs"):
        DirectionPairs.load(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        DirectionPairs.load(tmp_path)


def test_saving_again_replaces_the_file(file):
    make(5).save(file)
    assert same(DirectionPairs.load(file), make(5))
