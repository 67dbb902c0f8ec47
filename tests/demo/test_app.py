import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "demo" / "static"

# gradio and what it imports warn about one another; our own code is tested with warnings as errors in test_actions
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def app():
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'ovseg[demo]'")
    from demo import app

    return app


@pytest.fixture(scope="module")
def page(app):
    """The page, built inside a running event loop: elsewhere gradio makes loops of its own and leaves them open."""
    import tiny
    from ovseg.pipeline import Pipeline
    from ovseg.recipe import Recipe

    recipe = Recipe(name="test", model="test", short_side=48, templates="bare", negatives="word", scale=20.0)
    pipe = Pipeline(recipe, tiny.clip())

    async def build():
        return app.build(pipe)

    return asyncio.run(build())


def test_the_page_offers_two_named_calls_and_hides_the_rest(page):
    public = [fn.api_name for fn in page.fns.values() if fn.api_visibility == "public"]
    assert ["anomaly", "segment"] == sorted(public)
    assert page.max_threads and page.analytics_enabled is False


def test_no_value_can_enter_a_template(app, page):
    ours = [block for block in page.blocks.values() if isinstance(block, app.gr.HTML) and block.js_on_load]
    changing = [block for block in ours if block.html_template != "${value}"]
    assert 6 == len(changing)
    for block in changing:
        assert not re.search(r"\$\{|\{\{", block.html_template)


def test_scripts_write_text_and_never_markup():
    for script in STATIC.glob("*.js"):
        code = script.read_text(encoding="utf-8")
        assert "textContent" in code
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "http"):
            assert forbidden not in code, (script.name, forbidden)


def test_styles_ask_for_nothing_from_elsewhere(app):
    style = app.look()
    assert not re.search(r"url\(|@import|https?:", style["css"])
    theme = json.dumps(style["theme"].to_dict())
    assert "fonts.googleapis" not in theme and not style["theme"]._stylesheets


def test_examples_are_pictures_that_ship_with_names(app, tmp_path, monkeypatch):
    assert all(Path(file).is_file() and names.strip() for file, names in app._examples())
    (tmp_path / "examples").mkdir()
    row = {"file": "x.jpg", "prompts": ["cup", "dog=dog|puppy"], "absent": ["cow"]}
    (tmp_path / "examples" / "examples.json").write_text(json.dumps([row]))
    monkeypatch.setattr(app, "HERE", tmp_path)
    assert [[str(tmp_path / "examples/x.jpg"), "cup\ndog=dog|puppy\ncow"]] == app._examples()
    monkeypatch.setattr(app, "HERE", tmp_path / "none")
    assert [] == app._examples()


def test_an_error_of_ours_is_one_escaped_sentence(app):
    from ovseg.errors import BadInput

    def fails():
        raise BadInput("<b>x.png</b> is empty")

    with pytest.raises(app.gr.Error) as error:
        app._politely(fails)
    assert "&lt;b&gt;x.png&lt;/b&gt; is empty" == error.value.message
    assert error.value.print_exception is False


def test_a_busy_port_moves_to_the_next_free_one(app):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert port < app.free_port("127.0.0.1", port) < port + app.PORTS
    from ovseg.errors import BadUsage

    with pytest.raises(BadUsage, match="cannot be listened on|no address"):
        app.free_port("203.0.113.7", 7860)


@pytest.mark.slow
def test_a_client_gets_answers_from_a_running_page(app, tmp_path):
    """The page in a process of its own, with outside hosts unreachable for it, called as README shows."""
    program = textwrap.dedent(
        f"""
        import socket, sys
        sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]!r}
        real = socket.socket.connect
        def connect(self, address):
            if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
                sys.exit(f"asked for {{address}}")
            return real(self, address)
        socket.socket.connect = connect
        import tiny
        from demo import app
        from gradio_client import Client, handle_file
        from gradio_client.exceptions import AppError
        from PIL import Image
        from ovseg.pipeline import Pipeline
        from ovseg.recipe import Recipe
        recipe = Recipe(name="test", model="test", short_side=48, templates="bare", negatives="word", scale=20.0)
        said = []
        page, address = app.launch(Pipeline(recipe, tiny.clip()), port=0, block=False, say=said.append)
        assert address.startswith("http://127.0.0.1:") and address in said[-1], said
        folder = sys.argv[1]
        Image.fromarray(tiny.picture(48, 80)).save(folder + "/a.png")
        Image.fromarray(tiny.picture(48, 80, seed=1)).save(folder + "/b.png")
        open(folder + "/c.png", "w").write("words")
        client = Client(address, verbose=False, analytics_enabled=False)
        a, b, c = (handle_file(f"{{folder}}/{{name}}.png") for name in "abc")
        verdict, drawn, legend, line, data = client.predict(a, "cat\\n<b>x</b>", 0.1, api_name="/segment")
        assert data["names"] == ["cat", "<b>x</b>"] and (data["height"], data["width"]) == (48, 80), data
        assert data["picture"] == "a.png" and data["recipe"]["threshold"] == 0.1 and legend, data
        verdict, drawn, line, data, cut = client.predict(a, "tile", [b], 0.5, api_name="/anomaly")
        assert data["unit"] == "mixed" and data["threshold"] == cut == 0.5, data
        for given, says in (((c, "cat", 0.1), "not a picture"), ((a, "", 0.1), "at least one name")):
            try:
                client.predict(*given, api_name="/segment")
            except AppError as error:
                assert says in str(error), error
            else:
                raise AssertionError(says)
        page.close()
        print("answered")
        """
    )
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "gradio"), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)],
        capture_output=True, text=True, timeout=180, check=False, env=environment,
    )  # fmt: skip
    assert "answered" in ended.stdout, ended.stdout + ended.stderr
