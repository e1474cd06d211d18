#!/usr/bin/env python3
"""Make the text set: passages of real text on a Debian machine, embedded by MiniLM (384-d, cosine).

    python3 -m venv build/venv
    build/venv/bin/pip install -r bench/datasets/requirements.txt
    nice build/venv/bin/python bench/datasets/make_text.py --rows 200000

    --rows N       rows of the base                             (200000)
    --queries N    queries                                      (2000)
    --threads N    threads of the model                         (1)
    --folder DIR   where the set and everything cached is kept  (build/data)
    --available    use the passages that are embedded so far instead of embedding more

Writes text.base.fbin, text.query.fbin and text.gt.ibin (vectors.py has the formats).

 1. Text: the long descriptions of all packages that apt can fetch, the manual pages of the machine,
    and documentation (Markdown, reStructuredText, HTML, POD, plain text) under /usr/share and in the
    packages of DOCUMENTATION, which are fetched but not installed. Paragraphs of prose are cut at
    sentences into passages of 8 to 32 words. Passages that differ only in digits, case, punctuation
    or the name of their package are one; a family (sources and pages whose names begin alike: `git-*`)
    gives at most 600, or thousands of pages of one program would be most of the set, and a
    documentation package at most 40,000.
 2. Held out: one family in twelve. A query is a passage of a family that the base has nothing of.
 3. The passages are shuffled and written to text.passages.tsv, once: a later run with more rows goes
    on in the same list, and any first part of it is a fair sample. Delete it to collect anew.
 4. Parts of 2,048 passages are embedded and kept under text-parts; an interrupted run goes on with
    the first part that is missing. One core embeds about a hundred passages a second.
 5. The exact hundred nearest of each query by cosine.
"""

import argparse
import collections
import gzip
import hashlib
import html
import os
import pathlib
import random
import re
import subprocess
import sys

import numpy as np

import vectors

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "examples" / "data"))
import make_packages  # noqa: E402  the package lists and how to read them

DIMENSION = 384
PART = 2048
SHORTEST, FULL, LONGEST = 8, 18, 32  # words of a passage; FULL: no sentence is added to so many
FAMILY_LIMIT = 600
PACKAGE_LIMIT = 40000
HELD_OUT = 12  # one family in so many
DOCUMENTATION = (
    "cmake-doc", "debian-handbook", "debian-reference-en", "developers-reference", "git-doc",
    "linux-doc-6.1", "perl-doc", "postgresql-doc-15", "python3.11-doc", "sqlite3-doc",
)
DOCUMENT_NAME = re.compile(r"\.(txt|md|rst|gz|pod|html|page)$")
SKIPPED_NAME = re.compile(r"changelog|copyright|news|licen[cs]e|genindex", re.IGNORECASE)
HTML_BLOCK = re.compile(
    r"<(p|li|dd)\b[^>]*>(.*?)(?=</?(?:p|li|dd|ul|ol|dl|pre|table|div)\b)", re.DOTALL)
SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]\"'][.!?:;])\s+")


def main():
    options = parse_options()
    base_texts, query_texts = load_passages(options.folder)
    print(f"{len(base_texts):,} passages for the base, {len(query_texts):,} for queries")
    embedder = Embedder(options)
    queries = embedder.embed("query", query_texts, options.queries)
    base = embedder.embed("base", base_texts, options.rows)
    write_set(options.folder, base, queries)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200000)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("build/data"))
    parser.add_argument("--available", action="store_true")
    return parser.parse_args()


# Text


def load_passages(folder):
    """Return the passages of the base and those for queries; collect them at the first run."""
    path = folder / "text.passages.tsv"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{kind}\t{family}\t{text}\n" for kind, family, text in collect(folder)]
        temporary = path.with_suffix(".part")
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(path)
    texts = {"base": [], "query": []}
    with open(path, encoding="utf-8") as file:
        for line in file:
            kind, _, text = line.rstrip("\n").split("\t")
            texts[kind].append(text)
    return texts["base"], texts["query"]


def collect(folder):
    """Return (base or query, family, passage) in shuffled order, without duplicates."""
    seen, found, taken = set(), [], collections.Counter()
    documents = [*package_documents(folder), *manual_documents(), *installed_documents(),
                 *fetched_documents(folder)]
    order = random.Random(1)
    order.shuffle(documents)
    for family, name, paragraphs in documents:
        for text in passages(paragraphs):
            key = signature(text, name)
            package = family.partition("/")[0] + "/"
            if key not in seen and taken[family] < FAMILY_LIMIT and taken[package] < PACKAGE_LIMIT:
                seen.add(key)
                taken[family] += 1
                taken[package] += 1
                found.append((held_out(family), family, text))
    order.shuffle(found)
    return found


def held_out(family):
    digest = hashlib.sha256(family.encode("utf-8")).digest()
    return "query" if int.from_bytes(digest[:4], "big") % HELD_OUT == 0 else "base"


def signature(text, name):
    """What two passages share that are the same but for digits, punctuation and the package."""
    own = set(re.findall(r"[a-z]+", name.lower()))
    return tuple(word for word in re.findall(r"[a-z]+", text.lower()) if word not in own)


def package_documents(folder):
    """Yield the descriptions of all packages, by source package."""
    lists = make_packages.fetch_lists(folder, "bookworm")
    sources = {}
    for stanza in make_packages.read_stanzas(lists, "*_dists_bookworm_main_binary-*_Packages*"):
        sources[stanza["Package"]] = stanza.get("Source", stanza["Package"]).split(" ")[0]
    for stanza in make_packages.read_stanzas(lists, "*_dists_bookworm_main_i18n_Translation-en*"):
        name = stanza["Package"]
        synopsis, _, body = stanza["Description-en"].partition("\n")
        paragraphs = re.split(r"(?m)^ \.\s*$", body)
        paragraphs[0] = f"{synopsis}. {paragraphs[0]}"
        yield family_of(sources.get(name, name)), name, paragraphs


def manual_documents():
    for path in sorted(pathlib.Path("/usr/share/man").glob("man[1-8]/*")):
        if path.is_file() and not path.is_symlink():
            yield family_of(path.name), path.name, manual_paragraphs(read_text(path))


def manual_paragraphs(source):
    """Return the running text of a page for man(7); pages for mdoc(7) have none outside macros."""
    paragraph = []
    for line in source.splitlines():
        macro = re.match(r"[.'](\S*)\s*(.*)", line)
        if not macro:
            paragraph.append(without_escapes(line))
        elif macro[1] in ("B", "I", "BR", "IR", "RB", "RI", "BI", "IB"):
            paragraph.append(without_escapes(macro[2].replace('"', "")))
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []
    yield " ".join(paragraph)


def without_escapes(line):
    line = re.sub(r"\\(f|s[-+]?)(\[\w*\]|\(..|.)", "", line)
    line = re.sub(r"\\\*(\(..|\[\w+\]|.)", "", line)
    line = line.replace("\\-", "-").replace("\\(aq", "'").replace("\\(bu", "").replace("\\&", "")
    return re.sub(r"\\(\(..|\[\w+\]|[^\w]|.)", "", line)


def installed_documents():
    for folder in (pathlib.Path("/usr/share/doc"), pathlib.Path("/usr/share/perl")):
        for path in document_paths(folder):
            name = path.parts[4] if folder.name == "doc" else path.stem
            yield family_of(name), name, document_paragraphs(path)


def fetched_documents(folder):
    """Yield the files of the packages of DOCUMENTATION; each file is a family of its own."""
    for package in DOCUMENTATION:
        place = (folder / "text-documents" / package).resolve()
        if not place.exists():
            fetch_package(package, place)
        for path in document_paths(place):
            family = f"{package}/{path.name.split('.')[0]}"
            yield family, family, document_paragraphs(path)


def fetch_package(package, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    unpacked = place.with_name(place.name + ".part")
    settings = ["-o", "APT::Sandbox::User="]
    subprocess.run(["apt-get", *settings, "-q", "download", package], cwd=place.parent, check=True,
                   stdout=subprocess.DEVNULL)
    (archive,) = place.parent.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
    archive.unlink()
    unpacked.rename(place)


def document_paths(folder):
    for path in sorted(folder.rglob("*")):
        if DOCUMENT_NAME.search(path.name) and not SKIPPED_NAME.search(path.name) \
                and "_sources" not in path.parts and path.is_file() and not path.is_symlink():
            yield path


def document_paragraphs(path):
    source = read_text(path)
    if path.suffix == ".gz" and source.startswith((".", "'")):
        return manual_paragraphs(source)
    if "<html" not in source[:2000].lower() and path.suffix != ".page":
        return re.split(r"\n\s*\n", source)
    blocks = (re.sub(r"<[^>]*>", " ", block) for _, block in HTML_BLOCK.findall(source))
    return [re.sub(r" ([.,;:)])", r"\1", html.unescape(block)) for block in blocks]


def family_of(name):
    """What a held-out document shares with its siblings: the first word of its name."""
    words = re.split(r"[-_.:+]", name.lower())
    known = ("lib", "librust", "node", "python", "python3", "golang", "haskell", "ruby", "rust",
             "github", "r", "perl", "php")
    while len(words) > 1 and words[0] in known:
        words = words[1:]
    return words[0]


def read_text(path):
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return file.read(1 << 20).decode("utf-8", "replace")
    except OSError:
        return ""


def passages(paragraphs):
    """Cut paragraphs of prose at sentences into passages."""
    for paragraph in paragraphs:
        paragraph = " ".join(re.sub(r"[A-Z]<+([^<>]*)>+|\*\*|``", r"\1", paragraph).split())
        current = []
        for sentence in SENTENCE_END.split(paragraph):
            words = sentence.split()
            if current and (len(current) >= FULL or len(current) + len(words) > LONGEST):
                yield from prose(current)
                current = []
            current += words
        yield from prose(current)


def prose(words):
    text = " ".join(words[:LONGEST])
    letters = sum(character.isalpha() and character.isascii() for character in text)
    if len(words) >= SHORTEST and letters >= 0.75 * len(text):
        yield text


# Embeddings


class Embedder:
    """Embeds passages in parts that are kept, so that no part is computed twice."""

    def __init__(self, options):
        self.folder = options.folder / "text-parts"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.threads = options.threads
        self.only_available = options.available
        self.model = None

    def embed(self, kind, texts, count):
        """Return the paths of the parts of the first `count` texts, and how many rows they are."""
        if len(texts) < count:
            sys.exit(f"there are only {len(texts):,} passages for {kind}")
        paths, done = [], 0
        progress = vectors.Progress(f"embedding ({kind})", count)
        for first in range(0, count, PART):
            part = texts[first:first + PART]
            path = self.folder / f"{kind}-{first // PART:05d}-{part_key(part)}.npy"
            if not path.exists():
                if self.only_available:
                    break
                self.compute(part, path)
            paths.append(path)
            done = min(first + PART, count)
            progress.update(done)
        progress.close()
        return paths, done

    def compute(self, texts, path):
        if self.model is None:
            import minilm  # only here: --available needs nothing but numpy

            self.model = minilm.MiniLm(self.threads)
        rows = self.model.encode(texts)
        temporary = path.with_suffix(".part")
        with open(temporary, "wb") as file:
            np.save(file, rows.astype("<f4"))
        temporary.replace(path)


def part_key(texts):
    return hashlib.sha256("\n".join(texts).encode("utf-8")).hexdigest()[:12]


def write_set(folder, base_parts, query_parts):
    for name, (paths, count) in (("base", base_parts), ("query", query_parts)):
        if count == 0:
            sys.exit(f"no part of the {name} is embedded yet")
        writer = vectors.VectorWriter(str(folder / f"text.{name}.fbin"), count, DIMENSION)
        for path in paths:
            writer.append(np.load(path)[:count - writer.done])
        writer.close()
    base = vectors.open_vectors(str(folder / "text.base.fbin"))
    queries = vectors.open_vectors(str(folder / "text.query.fbin"))
    vectors.write_truth(str(folder / "text.gt.ibin"), *vectors.exact_neighbours(base, queries))
    print(f"text: {base.shape[0]:,} x {base.shape[1]}, {len(queries):,} queries")


if __name__ == "__main__":
    main()
