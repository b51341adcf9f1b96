"""The site and the notebooks in a real browser: Chromium without a window. Minutes, so `make test` leaves it
out; `make browser` runs it.

JupyterLab writes no alt text for the picture of an output, whatever the notebook says. What can be
checked there is that each cell that draws
has its words in a line `#| fig-alt:`; tests/test_site.py checks that the site shows them.

Screenshots go to the folder named by the environment variable SCREENSHOTS, or to _screenshots/.
"""

import functools
import http.server
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from ports import free_port

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parent.parent
CHROMIUM, DRIVER = shutil.which('chromium') or shutil.which('chromium-browser'), shutil.which('chromedriver')
SCREENSHOTS = Path(os.environ.get('SCREENSHOTS', ROOT / '_screenshots'))
PHONE, DESK = (390, 844), (1280, 900)
PAGES = [re.sub(r'^\d+[a-z]?_', '', path.stem) for path in sorted((ROOT / 'nbs').glob('*.ipynb'))]
PAGES += [
    'api',
    *(
        f'api-{path.stem}'
        for path in sorted((ROOT / 'mcl').glob('*.py'))
        if '__all__' in path.read_text(encoding='utf-8')
    ),
]
NOTEBOOKS = ['04_sampling', '20_reproduce']  # a library notebook that runs in seconds, and the story


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    if not (CHROMIUM and DRIVER):
        pytest.skip(
            'Chromium and chromedriver are not installed (on Debian: apt-get install chromium '
            'chromium-driver)'
        )
    webdriver = pytest.importorskip(
        'selenium.webdriver', reason='selenium is not installed: pip install -e .[dev]'
    )
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    quiet = 'headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync'
    for switch in [*quiet.split(), f'user-data-dir={tmp_path_factory.mktemp("profile")}']:
        options.add_argument(f'--{switch}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(900)
    yield driver
    driver.quit()


def look(browser, size, dark=False):
    "Set the size of the window and the theme that the reader's system prefers."
    metrics = dict(width=size[0], height=size[1], deviceScaleFactor=1, mobile=size == PHONE)
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
    browser.execute_cdp_cmd(
        'Emulation.setEmulatedMedia',
        {'features': [{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]},
    )


def keep(browser, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SCREENSHOTS / f'{name}.png'))


def wait_for(condition, seconds=30, what='the page'):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise TimeoutError(f'{what} was not ready after {seconds} seconds')


def complaints(browser):
    "What the console holds since it was last asked: errors and warnings."
    return [
        entry['message'] for entry in browser.get_log('browser') if entry['level'] in ('SEVERE', 'WARNING')
    ]


# --- the site --------------------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "Address of the site, freshly built and served from this machine."
    folder = tmp_path_factory.mktemp('web') / 'site'
    subprocess.run([sys.executable, ROOT / 'tools' / 'site.py', '--out', folder], check=True)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@pytest.mark.parametrize('name', PAGES)
def test_a_page_fits_a_phone_and_the_console_is_silent(browser, site, name):
    look(browser, PHONE)
    complaints(browser)
    browser.get(f'{site}/{name}.html')
    wide = browser.execute_script('''
        const inside = e => { for (let p = e.parentElement; p; p = p.parentElement) if (/auto|scroll|hidden/.test(getComputedStyle(p).overflowX)) return true; };
        return [...document.body.querySelectorAll('*')].filter(e => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1 && !inside(e))
            .map(e => e.outerHTML.slice(0, 120))''')
    assert not wide
    assert browser.execute_script('return document.documentElement.scrollWidth <= innerWidth')
    assert not complaints(browser)
    if name in ('index', 'prototypes', 'api-sampling'):
        keep(browser, f'site-{name}-phone')


def test_every_picture_arrives(browser, site):
    look(browser, DESK)
    for name in ('index', 'pedworld', 'clustering'):
        browser.get(f'{site}/{name}.html')
        browser.execute_script('document.querySelectorAll("img").forEach(image => image.loading = "eager")')
        wait_for(
            lambda: browser.execute_script('return [...document.images].every(image => image.complete)'),
            what=name,
        )
        assert browser.execute_script(
            'return document.images.length && [...document.images].every(image => image.naturalWidth > 50)'
        )
        keep(browser, f'site-{name}')


@pytest.mark.parametrize('size', [PHONE, DESK], ids=['phone', 'desk'])
def test_search_finds_a_page_and_opens_it(browser, site, size):
    look(browser, size)
    browser.get(f'{site}/index.html')
    browser.find_element('css selector', 'body').send_keys('/')
    field = browser.switch_to.active_element
    assert field.get_attribute('type') == 'search'
    field.send_keys('meta-prototype')
    found = wait_for(lambda: browser.find_elements('css selector', '#site-results a'), what='the search')
    keep(browser, f'site-search-{"phone" if size == PHONE else "desk"}')
    assert 'Meta-prototypes' in found[0].text
    found[0].click()
    wait_for(lambda: browser.current_url.endswith('prototypes.html#Meta-prototypes'), what='the page found')
    assert browser.find_element('css selector', 'h1').text.startswith('Meta-prototypes')
    browser.find_element('css selector', '[type=search]').send_keys('zebra crossing unheard of')
    assert 'Nothing found' in wait_for(
        lambda: browser.find_element('css selector', '#site-results').text, what='the search'
    )


def test_the_theme_follows_the_system_and_the_button(browser, site):
    paper = lambda: browser.execute_script('return getComputedStyle(document.body).backgroundColor')
    look(browser, DESK, dark=False)
    browser.get(f'{site}/prototypes.html')
    light = paper()
    look(browser, DESK, dark=True)
    dark = paper()
    assert light != dark
    keep(browser, 'site-prototypes-dark')
    browser.find_element('css selector', '#site-theme').click()
    assert paper() == light
    browser.get(f'{site}/losses.html')  # the choice is remembered
    assert paper() == light
    browser.find_element('css selector', '#site-theme').click()
    assert paper() == dark
    browser.execute_script('localStorage.clear()')


def test_the_contents_open_on_a_phone(browser, site):
    look(browser, PHONE)
    browser.get(f'{site}/sampling.html')
    contents, button = (
        browser.find_element('css selector', f'#site-{name}') for name in ('contents', 'menu')
    )
    assert not contents.is_displayed() and button.get_attribute('aria-expanded') == 'false'
    button.click()
    assert contents.is_displayed() and button.get_attribute('aria-expanded') == 'true'


# --- JupyterLab ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    """Address of a JupyterLab that shows a copy of the project, with no cell kept out of the page and no news
    fetched.
    """
    folder = tmp_path_factory.mktemp('lab')
    project = folder / 'project'
    skip = shutil.ignore_patterns(
        '.git',
        '.venv',
        '.pytest_cache',
        '__pycache__',
        '.ipynb_checkpoints',
        '_*site*',
        '_screenshots',
        'runs',
        'build',
        'dist',
    )
    shutil.copytree(ROOT, project, ignore=skip)
    settings = folder / 'settings' / '@jupyterlab'
    choices = {
        'notebook-extension/tracker': {'windowingMode': 'none'},
        'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False},
    }
    for name, choice in choices.items():
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / f'{name}.jupyterlab-settings').write_text(json.dumps(choice))
    places = {
        'JUPYTERLAB_SETTINGS_DIR': folder / 'settings',
        'JUPYTERLAB_WORKSPACES_DIR': folder / 'workspaces',
        'JUPYTER_CONFIG_DIR': folder / 'config',
        'IPYTHONDIR': folder / 'ipython',
        'MPLCONFIGDIR': folder / 'matplotlib',
        'PYTHONPATH': os.pathsep.join([str(project), os.environ.get('PYTHONPATH', '')]),
    }
    port = free_port()
    command = [
        sys.executable,
        '-m',
        'jupyterlab',
        '--no-browser',
        '--allow-root',
        f'--port={port}',
        '--ServerApp.port_retries=0',
        '--IdentityProvider.token=',
        '--expose-app-in-browser',
        f'--ServerApp.root_dir={project}',
    ]
    with open(folder / 'log', 'w') as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, **{key: str(value) for key, value in places.items()}},
        )
    try:

        def answers():
            if server.poll() is not None:
                raise RuntimeError(f'JupyterLab ended:\n{(folder / "log").read_text()[-2000:]}')
            try:
                return urllib.request.urlopen(f'http://127.0.0.1:{port}/api/status').status == 200
            except OSError:
                return False

        wait_for(answers, 120, 'JupyterLab')
        yield f'http://127.0.0.1:{port}'
    finally:
        server.terminate()
        server.wait(30)


OPEN_AND_RUN = '''
const [path, done] = arguments;
(async () => {
  const app = window.jupyterapp;
  await app.restored;
  const widget = await app.commands.execute('docmanager:open', {path});
  await widget.context.ready;
  await widget.sessionContext.ready;
  await app.commands.execute('notebook:run-all-cells');
  const code = widget.content.widgets.filter(cell => cell.model.type === 'code' && cell.model.sharedModel.source.trim());
  await new Promise(resolve => setTimeout(resolve, 1500));     // pictures are decoded
  done(code.map(cell => ({source: cell.model.sharedModel.source, count: cell.model.executionCount, outputs: cell.model.outputs.toJSON()})));
})().catch(error => done(String(error)));
'''
NODE = "const node = window.jupyterapp.shell.currentWidget.node;"
CLIPPED = (
    NODE
    + '''
return [...node.querySelectorAll('.jp-OutputArea-output table, .jp-MarkdownOutput table')].filter(table => {
  const area = table.closest('.jp-RenderedHTMLCommon') || table.parentElement;
  const scrolls = /auto|scroll/.test(getComputedStyle(area).overflowX);
  return table.getBoundingClientRect().right > area.getBoundingClientRect().right + 1 && !scrolls;
}).map(table => table.innerText.slice(0, 80));
'''
)
PICTURES = (
    NODE
    + '''
return [...node.querySelectorAll('.jp-OutputArea-output img')].map(image =>
  ({alt: image.alt, width: image.naturalWidth, right: image.getBoundingClientRect().right, edge: image.closest('.jp-OutputArea').getBoundingClientRect().right}));
'''
)


def scroll_through(browser, name):
    "Screenshots of the open notebook from top to bottom, a window at a time."
    panel = (
        "const panel = window.jupyterapp.shell.currentWidget.node.querySelector('.jp-WindowedPanel-outer');"
    )
    top, reached = -1, browser.execute_script(panel + 'panel.scrollTop = 0; return panel.scrollTop')
    for place in itertools.count():
        time.sleep(0.2)
        keep(browser, f'{name}-{place:02d}')
        top, reached = (
            reached,
            browser.execute_script(
                panel + 'panel.scrollTop += panel.clientHeight - 60; return panel.scrollTop'
            ),
        )
        if reached == top:
            break


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_a_notebook_runs_in_jupyterlab(browser, lab, name):
    look(browser, DESK)
    browser.get(f'{lab}/lab/workspaces/{name}?reset')
    wait_for(lambda: browser.execute_script('return !!window.jupyterapp'), 60, 'JupyterLab in the browser')
    cells = browser.execute_async_script(OPEN_AND_RUN, f'nbs/{name}.ipynb')
    assert isinstance(cells, list), cells
    scroll_through(browser, f'lab-{name}')

    assert not [cell['source'][:200] for cell in cells if cell['count'] is None], 'cells that did not run'
    assert not [
        output
        for cell in cells
        for output in cell['outputs']
        if output['output_type'] == 'error' or output.get('name') == 'stderr'
    ]
    assert not browser.execute_script(CLIPPED), 'tables that are cut off'
    drawn = [
        cell
        for cell in cells
        if any(kind.startswith('image/') for output in cell['outputs'] for kind in output.get('data', {}))
    ]
    assert drawn and not [cell['source'][:200] for cell in drawn if '#| fig-alt: ' not in cell['source']], (
        'figures without words'
    )
    pictures = browser.execute_script(PICTURES)
    assert len(pictures) >= len(drawn) and all(
        p['width'] > 50 and p['right'] <= p['edge'] + 1 for p in pictures
    ), pictures


def test_a_notebook_is_readable_in_the_dark_theme(browser, lab):
    look(browser, DESK)
    wait_for(
        lambda: browser.execute_script(
            'return !!window.jupyterapp && !!window.jupyterapp.shell.currentWidget'
        ),
        60,
        'the open notebook',
    )
    browser.execute_async_script('''
        const done = arguments[0];
        window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'}).then(() => setTimeout(done, 1500));''')
    assert browser.execute_script('return document.body.dataset.jpThemeLight') == 'false'
    browser.execute_script(NODE + "node.querySelector('.jp-OutputArea-output img').scrollIntoView()")
    keep(browser, 'lab-dark')
    see_through = browser.execute_script(
        NODE
        + '''
        return [...node.querySelectorAll('.jp-OutputArea-output img')].filter(image => {
          const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
          const pen = canvas.getContext('2d');
          pen.drawImage(image, 0, 0, 1, 1, 0, 0, 1, 1);
          return pen.getImageData(0, 0, 1, 1).data[3] < 255 && getComputedStyle(image).backgroundColor === 'rgba(0, 0, 0, 0)';
        }).length'''
    )
    assert not see_through, 'pictures without a ground of their own: dark letters on dark'


# --- the page of a run -----------------------------------------------------------------------------------


@pytest.mark.parametrize('size, dark', [(DESK, False), (DESK, True), (PHONE, False)])
def test_the_page_of_a_run_is_clicked_through(browser, tmp_path, size, dark):
    from test_report_page import NASTY, album

    from mcl.page import as_page

    (tmp_path / 'report.html').write_text(as_page('a run', {'Record': {'mAP': 1}}, {}, album(200)), 'utf-8')
    look(browser, size, dark)
    complaints(browser)
    browser.get((tmp_path / 'report.html').as_uri())
    text = lambda id: browser.execute_script(f'return document.getElementById("{id}").innerText')
    count = lambda query: browser.execute_script(f'return document.querySelectorAll("{query}").length')
    assert NASTY[0] in text('crop') and count('#near button') == 8 and count('#sheet button') > 10
    before = text('crop')
    browser.execute_script('document.querySelector("#near button").click()')
    assert text('crop') != before
    cluster = browser.execute_script('return document.getElementById("which").selectedIndex')
    browser.execute_script(f'document.getElementById("{"after" if cluster == 0 else "before"}").click()')
    assert browser.execute_script('return document.getElementById("which").selectedIndex') != cluster
    found = browser.execute_script('''
        const map = document.getElementById('map'), box = map.getBoundingClientRect();
        const album = JSON.parse(document.getElementById('album').textContent);
        const [x, y] = [album.x[77], album.y[77]].map(v => (0.03 + 0.94 * v) * map.clientWidth);
        const where = {clientX: box.left + x, clientY: box.top + y, bubbles: true};
        map.dispatchEvent(new MouseEvent('mousemove', where));
        const hint = !document.getElementById('hint').hidden;
        map.dispatchEvent(new MouseEvent('click', where));
        const [a, b] = map.getContext('2d').getImageData(0, 0, map.width, map.height).data.reduce(
            ([low, high], v) => [Math.min(low, v), Math.max(high, v)], [255, 0]);
        return {hint, drawn: b > a, name: album.names[77]}''')
    assert found['hint'] and found['drawn']
    assert browser.execute_script('return document.documentElement.scrollWidth <= innerWidth')
    wait_for(lambda: browser.execute_script('return [...document.images].every(i => !i.src || i.naturalWidth)'))
    assert not complaints(browser)
    keep(browser, f'report-{"dark" if dark else size[0]}')
