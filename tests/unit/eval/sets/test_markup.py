from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.sets.markup import clean_html


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain  text\n\twith\x9d gaps", "plain text with gaps"),
        ("<table><tr><td>Colour</td><td>Red &amp; blue</td></tr></table>", "Colour Red & blue"),
        ("a<br/>b<BR>c", "a b c"),
        ("5 &lt; 6 and 5 < 6 &nbsp;&#39;ok&#39;", "5 < 6 and 5 < 6 'ok'"),
        ("x<script>var a = '<b>1</b>';</script>y", "x y"),
        ("x<style type='text/css'>.a {color: red}</style>y", "x y"),
        ("x<!-- <b>hidden</b> -->y", "x y"),
        ('<!DOCTYPE html PUBLIC "-//W3C">x', "x"),
        ("x <![if !IE]> y <![CDATA[ z ]]> <![endif", "x y [endif"),
        ("never closed <style> .a{color:red}", "never closed"),
        ("Nice lamp. ul, li { margin:0; padding:0 } Two bulbs.", "Nice lamp. Two bulbs."),
        ("Nice lamp.\n\n.style1 {\n text-align: center;\n}\n#b p {color: red;}\nTwo bulbs.", "Nice lamp. Two bulbs."),
        ("Lamp @media print { .a { color: red } } bulb", "Lamp bulb"),
        ("Sizes {S, M, L} fit", "Sizes {S, M, L} fit"),
        ("连衣裙<br>夏季", "连衣裙 夏季"),
    ],
)
def test_clean_html(text: str, expected: Any) -> None:
    assert clean_html(text) == expected


@given(st.text(alphabet=st.sampled_from("<>!-[]{}:;/&#ab \n\"'=?.,@"), max_size=60))
def test_any_text_gives_one_line(text: str) -> None:
    cleaned = clean_html(text)
    assert cleaned == " ".join(cleaned.split())
