"""The style sheet of `/docs`: the reader's own fonts, light or dark as the reader's system is."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5c6779;--line:#e3e7ee;--paper:#fff;--card:#f7f9fc;--accent:#2457d6;
--get:#0b7a4b;--post:#2457d6;--put:#a15c00;--delete:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf2;--soft:#98a3b5;--line:#2a3240;--paper:#10141b;--card:#171d27;
--accent:#8ab0ff;--get:#5fd39b;--post:#8ab0ff;--put:#f0b45c;--delete:#ff8a80}}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
header,main{max-width:62rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:3rem;border-bottom:1px solid var(--line)}
h1{margin:0;font-size:2rem;letter-spacing:-.02em}
h1 small{font-size:.9rem;font-weight:400;color:var(--soft)}
h2{margin:3rem 0 .25rem;font-size:1.35rem}
h4{margin:1.25rem 0 .4rem;font-size:.95rem}
nav{display:flex;flex-wrap:wrap;gap:1.25rem;padding:.75rem 0 1rem}
a{color:var(--accent);text-decoration:none}
a:hover,a:focus-visible{text-decoration:underline}
code{font:.875em ui-monospace,monospace;background:var(--card);padding:.1em .3em;border-radius:4px;
overflow-wrap:anywhere}
details{margin:.5rem 0;border:1px solid var(--line);border-radius:10px;background:var(--card);padding:0 1rem}
details[open]{padding-bottom:1rem}
summary{display:flex;flex-wrap:wrap;align-items:baseline;gap:.25rem .75rem;padding:.65rem 0;cursor:pointer;
list-style:none}
summary::-webkit-details-marker{display:none}
summary code{background:none;padding:0;font-size:.95rem}
.what{color:var(--soft);margin-left:auto}
.method{min-width:4.2rem;font-weight:700;font-size:.8rem;letter-spacing:.04em}
.get{color:var(--get)}.post{color:var(--post)}.put{color:var(--put)}.delete{color:var(--delete)}
table{width:100%;border-collapse:collapse;font-size:.925rem}
td{padding:.4rem .75rem .4rem 0;border-top:1px solid var(--line);vertical-align:top}
td:first-child{white-space:nowrap}
td:nth-child(2){max-width:14rem;color:var(--soft)}
small{color:var(--soft)}
h3{margin:2rem 0 .25rem;font-size:1.05rem}
em{color:var(--soft);font-style:normal}
@media(max-width:40rem){td{display:block;border:0;padding:.1rem 0}
tr{display:block;border-top:1px solid var(--line);padding:.5rem 0}
.what{margin-left:0;flex-basis:100%}}
"""
