# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents for Sugar's activities to show: a picture, a book, a page, a tone.

What can be seen of one is green, in the middle of the window.
"""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
import zipfile

PATIENCE_S = 60
GREEN, GREEN_CSS = (0, 255, 0), "#00ff00"

EPUB = "application/epub+zip"
CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="book.opf" media-type="application/oebps-package+xml"/>
</rootfiles></container>"""
PACKAGE = """<?xml version="1.0"?>
<package xmlns="http://www.idpf.org/2007/opf" version="2.0" unique-identifier="i">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Tales</dc:title>
<dc:identifier id="i">tales</dc:identifier><dc:language>en</dc:language>
<dc:creator>Ana</dc:creator></metadata>
<manifest><item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>
<item id="one" href="one.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine toc="ncx"><itemref idref="one"/></spine></package>"""
CONTENTS = """<?xml version="1.0"?>
<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" version="2005-1"><head/>
<docTitle><text>Tales</text></docTitle><navMap><navPoint id="one" playOrder="1">
<navLabel><text>One</text></navLabel><content src="one.xhtml"/></navPoint></navMap>
</ncx>"""
CHAPTER = f"""<?xml version="1.0"?>
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>One</title></head>
<body style="background: {GREEN_CSS}; height: 2000px"><p>Once upon a time</p></body>
</html>"""
TONE = """
import sys, gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
line = Gst.parse_launch("audiotestsrc num-buffers=2000 ! vorbisenc ! oggmux ! "
                        "filesink location=" + sys.argv[1])
line.set_state(Gst.State.PLAYING)
ends = Gst.MessageType.EOS | Gst.MessageType.ERROR
said = line.get_bus().timed_pop_filtered(20 * Gst.SECOND, ends)
line.set_state(Gst.State.NULL)
sys.exit(said is None or said.type != Gst.MessageType.EOS)
"""


def picture() -> bytes:
    """As PPM, the simplest there is."""
    return b"P6 600 400 255\n" + bytes(GREEN) * 600 * 400


def book() -> bytes:
    """An EPUB of one page."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("mimetype", EPUB)
        file.writestr("META-INF/container.xml", CONTAINER)
        file.writestr("book.opf", PACKAGE)
        file.writestr("toc.ncx", CONTENTS)
        file.writestr("one.xhtml", CHAPTER)
    return made.getvalue()


def tone() -> bytes:
    """Three quarters of a minute of one, as Ogg Vorbis."""
    with tempfile.TemporaryDirectory() as top:
        path = f"{top}/tone.ogg"
        subprocess.run(
            ["/usr/bin/python3", "-c", TONE, path],
            check=True,
            timeout=PATIENCE_S,
            env={"HOME": top, "PATH": os.environ["PATH"]},
        )
        with open(path, "rb") as file:
            return file.read()


PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>endobj
trailer<</Root 1 0 R>>
"""
"""A page with nothing on it."""
