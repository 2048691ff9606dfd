"""What is said about an image is attached to its digest, and checked against it."""

from __future__ import annotations

import json
import threading

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from support.oci_samples import pem, small_image

from tandem.errors import RegistryError, SettingError
from tandem.oci import INDEX, open_registry
from tandem.oci.attest.materials import attach_materials
from tandem.oci.attest.provenance import PROVENANCE, Origin
from tandem.oci.attest.referrers import attach, fallback_tag, find, referrers
from tandem.oci.attest.sbom import SBOM, bill_of_materials, components_of
from tandem.oci.attest.signature import checking_key, signing_key
from tandem.oci.attest.statements import attest
from tandem.oci.attest.trust import require_signed
from tandem.oci.attest.verify import verify
from tandem.oci.components import Component
from tandem.oci.push import push

COMPONENTS = [
    Component(name="Flask", version="3.1.3", license="BSD-3-Clause", summary="A framework"),
    Component(name="numpy", version="2.4.6", license="modified, see file"),
]
FACTS = Origin(
    app="digits",
    commit="c" * 40,
    model="digits",
    model_version=17,
    model_digest="sha256:" + "d" * 64,
    lock_digest="sha256:" + "e" * 64,
    tests="12 tests passed",
    run_id="run-1",
)


@pytest.fixture
def registry(tmp_path):
    return open_registry(f"oci:{tmp_path}/images")


@pytest.fixture
def image(registry):
    """An image as a release makes it, in the registry."""
    made, sources = small_image()
    made = made.with_config(
        labels={
            "org.opencontainers.image.revision": FACTS.commit,
            "org.opencontainers.image.version": "c-m17",
            "tandem.model.name": "digits",
            "tandem.model.version": "17",
            "tandem.model.digest": FACTS.model_digest,
        },
        User="10001:10001",
        Cmd=["python3", "-m", "serving"],
    )
    push(registry, made, sources, tag="one")
    return made


def test_bill_of_materials_is_the_same_for_the_same_components():
    first = bill_of_materials("digits", COMPONENTS, origin=FACTS)
    assert first == bill_of_materials("digits", reversed(COMPONENTS), origin=FACTS)
    document = json.loads(first)
    assert document["bomFormat"] == "CycloneDX"
    assert [one["bom-ref"] for one in document["components"]] == [
        "pkg:pypi/flask@3.1.3",
        "pkg:pypi/numpy@2.4.6",
        "model:digits@17",
    ]
    assert document["components"][0]["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert document["components"][1]["licenses"] == [{"license": {"name": "modified, see file"}}]
    assert components_of(first) == COMPONENTS


@pytest.mark.parametrize("facts", [None, FACTS], ids=["app", "model"])
@pytest.mark.parametrize(
    "components",
    [
        [],
        COMPONENTS,
        [Component(name="Jinja_2.x", version="1.0+cpu.1", license="", summary="ünicode")],
        [
            Component(name="numpy", version="2", license="BSD-3-Clause AND 0BSD AND Zlib"),
            Component(name="scipy", version="1", license="BSD License"),
            Component(name="x", version="1", license="apache-2.0"),
            Component(name="y", version="1", license="MIT/X11; see LICENSE"),
        ],
    ],
    ids=["none", "some", "names", "licences"],
)
def test_bill_of_materials_is_what_the_schema_of_cyclonedx_says(components, facts):
    document = bill_of_materials("digits", components, origin=facts).decode()
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(document)
    assert wrong is None, wrong
    spoilt = document.replace('"type":"container"', '"type":"crate"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(spoilt) is not None


@pytest.mark.parametrize(
    ("words", "listed"),
    [
        ("MIT", {"expression": "MIT"}),
        ("apache-2.0 or mit", {"expression": "Apache-2.0 OR MIT"}),
        ("BSD", {"license": {"name": "BSD"}}),
        ("3-Clause BSD License", {"license": {"name": "3-Clause BSD License"}}),
    ],
)
def test_a_licence_is_an_expression_only_where_spdx_knows_it(words, listed):
    component = Component(name="x", version="1", license=words)
    document = json.loads(bill_of_materials("digits", [component]))
    assert document["components"][0]["licenses"] == [listed]


def test_attested_image_is_verified(registry, image):
    attest(registry, image, FACTS, components=COMPONENTS)
    report = verify(registry, "one", deep=True)
    assert report.ok, report.missing
    assert report.digest == image.digest
    assert {one.name: one.ok for one in report.findings} == {
        "layers": True,
        "settings": True,
        "labels": True,
        "sbom": True,
        "provenance": True,
        "signature": None,
    }


def test_bare_image_is_told_all_that_it_lacks(registry):
    image, sources = small_image()
    push(registry, image, sources, tag="bare")
    missing = " ".join(verify(registry, "bare").missing)
    for words in ("run as root", "no command", "labels missing", "no bill of", "no provenance"):
        assert words in missing


def test_image_that_is_not_there_is_an_error(registry):
    with pytest.raises(RegistryError, match="there is no image"):
        verify(registry, "none")


def test_attesting_twice_adds_nothing(registry, image):
    assert len(attest(registry, image, FACTS, components=COMPONENTS)) == 2
    later = msgspec.structs.replace(FACTS, run_id="run-2")
    assert attest(registry, image, later, components=COMPONENTS) == []
    assert len(referrers(registry, image.digest)) == 2


def test_components_come_from_the_app_image(registry, image):
    app, sources = small_image(b"app")
    push(registry, app, sources, tag="app")
    attach_materials(registry, app, COMPONENTS, app="digits")
    attest(registry, image, FACTS, app_image=app.digest)
    assert components_of(find(registry, image.digest, SBOM)[1]) == COMPONENTS


def test_attestations_leave_the_images_digest_as_it_was(registry, image):
    attest(registry, image, FACTS, components=COMPONENTS)
    assert registry.get_manifest("one")[0].digest == image.digest
    assert fallback_tag(image.digest) in registry.tags()


def test_writers_at_once_all_stay(registry, image):
    kinds = [f"application/x-{number}" for number in range(4)]
    threads = [
        threading.Thread(target=attach, args=(registry, image, [(kind, "text/x", kind.encode())]))
        for kind in kinds
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.artifact_type for one in referrers(registry, image.digest)} == set(kinds)


def test_signed_provenance_is_accepted_by_its_key_only(registry, image):
    private, public = pem()
    attest(
        registry,
        image,
        FACTS,
        components=COMPONENTS,
        signer=signing_key({"TANDEM_SIGNING_KEY": private}),
    )
    key = checking_key({"TANDEM_VERIFY_KEY": public})
    assert verify(registry, "one", key=key).ok
    assert verify(registry, "one", key=checking_key({"TANDEM_SIGNING_KEY": private})).ok
    other = checking_key({"TANDEM_VERIFY_KEY": pem()[1]})
    assert "not signed by the key" in " ".join(verify(registry, "one", key=other).missing)


def test_unsigned_provenance_is_missing_a_signature_where_a_key_is_set(registry, image):
    attest(registry, image, FACTS, components=COMPONENTS)
    key = checking_key({"TANDEM_VERIFY_KEY": pem()[1]})
    assert verify(registry, "one", key=key).missing == [
        "no bill of materials signed by the key that is set is attached",
        "the provenance is not signed",
    ]


def test_an_unsigned_statement_that_lies_there_neither_passes_nor_blocks_signing(registry, image):
    private, public = pem()
    key = checking_key({"TANDEM_VERIFY_KEY": public})
    attest(registry, image, FACTS, components=COMPONENTS)
    other = signing_key({"TANDEM_SIGNING_KEY": pem()[0]})
    attest(registry, image, FACTS, components=COMPONENTS, signer=other)
    with pytest.raises(RegistryError, match="no provenance signed by the key"):
        require_signed(registry, image.digest, key)
    signer = signing_key({"TANDEM_SIGNING_KEY": private})
    attest(registry, image, FACTS, components=COMPONENTS, signer=signer)
    require_signed(registry, image.digest, key)
    assert verify(registry, "one", key=key).ok
    assert attest(registry, image, FACTS, components=COMPONENTS, signer=signer) == []


def keys():
    private, public = pem()
    signer = signing_key({"TANDEM_SIGNING_KEY": private})
    return signer, checking_key({"TANDEM_VERIFY_KEY": public})


def test_a_statement_of_another_image_that_was_put_there_blocks_nothing(registry, image):
    from tandem.oci.attest.provenance import provenance
    from tandem.oci.attest.signature import ENVELOPE, sign

    signer, key = keys()
    elsewhere = sign(provenance("x", "sha256:" + "0" * 64, FACTS), signer)
    attach(registry, image, [(PROVENANCE, ENVELOPE, elsewhere)])
    attest(registry, image, FACTS, components=COMPONENTS, signer=signer)
    require_signed(registry, image.digest, key)
    assert verify(registry, "one", key=key).ok


@pytest.mark.parametrize("whose", ["nobody", "another key", "another image"])
def test_a_bill_of_materials_that_the_key_did_not_sign_neither_passes_nor_blocks(
    registry, image, whose
):
    from tandem.oci.attest.provenance import provenance
    from tandem.oci.attest.sbom import bill_statement
    from tandem.oci.attest.signature import ENVELOPE, sign

    signer, key = keys()
    forged = bill_of_materials("evil", COMPONENTS[:1])
    digest = image.digest if whose == "another key" else "sha256:" + "0" * 64
    by = keys()[0] if whose == "another key" else signer
    put = (SBOM, SBOM, forged)
    if whose != "nobody":
        put = (SBOM, ENVELOPE, sign(bill_statement("x", digest, forged), by))
    good = sign(provenance("x", image.digest, FACTS), signer)
    attach(registry, image, [put, (PROVENANCE, ENVELOPE, good)])
    with pytest.raises(RegistryError, match="no bill of materials signed by the key"):
        require_signed(registry, image.digest, key)
    assert not verify(registry, "one", key=key).ok
    attest(registry, image, FACTS, components=COMPONENTS, signer=signer)
    require_signed(registry, image.digest, key)
    found = {one.name: one.text for one in verify(registry, "one", key=key).findings}
    assert found["sbom"] == "bill of materials: 2 packages"


def test_a_signed_provenance_is_no_bill_of_materials(registry, image):
    from tandem.oci.attest.provenance import provenance
    from tandem.oci.attest.signature import ENVELOPE, sign

    signer, key = keys()
    good = sign(provenance("x", image.digest, FACTS), signer)
    attach(registry, image, [(SBOM, ENVELOPE, good), (PROVENANCE, ENVELOPE, good)])
    with pytest.raises(RegistryError, match="no bill of materials signed"):
        require_signed(registry, image.digest, key)


def test_signed_materials_of_the_app_image_come_before_those_that_others_put_there(registry, image):
    app, sources = small_image(b"app")
    push(registry, app, sources, tag="app")
    signer, key = keys()
    attach(registry, app, [(SBOM, SBOM, bill_of_materials("evil", COMPONENTS[:1]))])
    attach_materials(registry, app, COMPONENTS, app="digits", signer=signer)
    attest(registry, image, FACTS, app_image=app.digest, signer=signer)
    found = {one.name: one.text for one in verify(registry, "one", key=key).findings}
    assert found["sbom"] == "bill of materials: 2 packages"


def test_materials_that_cannot_be_read_hide_no_others(registry, image):
    app, sources = small_image(b"app")
    push(registry, app, sources, tag="app")
    attach(registry, app, [(SBOM, SBOM, b"no json")])
    attach_materials(registry, app, COMPONENTS, app="digits")
    attest(registry, image, FACTS, app_image=app.digest)
    assert components_of(find(registry, image.digest, SBOM)[1]) == COMPONENTS


def test_a_signed_statement_about_another_image_lets_none_pass(registry, image):
    from tandem.oci.attest.provenance import provenance
    from tandem.oci.attest.signature import ENVELOPE, sign

    private, public = pem()
    statement = provenance("x", "sha256:" + "0" * 64, FACTS)
    signed = sign(statement, signing_key({"TANDEM_SIGNING_KEY": private}))
    attach(registry, image, [(PROVENANCE, ENVELOPE, signed)])
    with pytest.raises(RegistryError, match="another digest"):
        require_signed(registry, image.digest, checking_key({"TANDEM_VERIFY_KEY": public}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"commit": "a" * 40}, "another commit"),
        ({"model_digest": "sha256:" + "0" * 64}, "another model"),
    ],
)
def test_provenance_that_says_otherwise_than_the_labels_is_found(registry, image, change, words):
    wrong = msgspec.structs.replace(FACTS, **change)
    attest(registry, image, wrong, components=COMPONENTS)
    assert words in " ".join(verify(registry, "one").missing)


def test_provenance_of_another_image_is_found(registry, image):
    from tandem.oci.attest.provenance import provenance

    statement = provenance("x", "sha256:" + "0" * 64, FACTS)
    attach(registry, image, [(PROVENANCE, PROVENANCE, statement)])
    assert "another digest" in " ".join(verify(registry, "one").missing)


@pytest.mark.parametrize("data", [b"no json", b"{}", b"[]", b'{"subject":[]}'])
@pytest.mark.parametrize("kind", [SBOM, PROVENANCE])
def test_attestation_that_is_none_is_found(registry, image, data, kind):
    attach(registry, image, [(kind, kind, data)])
    report = verify(registry, "one")
    assert not report.ok
    name = "sbom" if kind == SBOM else "provenance"
    assert [one.ok for one in report.findings if one.name == name] == [False]


def test_layer_that_is_gone_or_damaged_is_found(registry, image):
    attest(registry, image, FACTS, components=COMPONENTS)
    path = registry.path(image.layers[0].descriptor.digest)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    assert verify(registry, "one").ok, "only a deep look reads the layers"
    assert "damaged" in " ".join(verify(registry, "one", deep=True).missing)
    path.unlink()
    assert "missing or cut short" in " ".join(verify(registry, "one").missing)


def test_key_that_is_none_is_refused_without_showing_it():
    for name, function in (("SIGNING", signing_key), ("VERIFY", checking_key)):
        with pytest.raises(SettingError, match=f"invalid TANDEM_{name}_KEY") as caught:
            function({f"TANDEM_{name}_KEY": "something secret"})
        assert "something secret" not in str(caught.value)


def test_without_a_key_nothing_is_signed():
    assert signing_key({}) is None
    assert checking_key({}) is None


def test_referrers_list_that_is_none_is_an_error(registry, image):
    registry.put_manifest(b"{}", INDEX, tag=fallback_tag(image.digest))
    with pytest.raises(RegistryError, match="not a list"):
        referrers(registry, image.digest)
