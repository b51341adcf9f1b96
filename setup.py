"""Package metadata lives in settings.ini, which nbdev reads too; this file hands it to setuptools."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here / 'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
EXTRAS = ('dev', 'community', 'tensorboard')

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    url=cfg['git_url'],
    keywords=cfg['keywords'],
    license='Apache-2.0',
    packages=find_packages(include=['mcl', 'mcl.*']),
    package_data={'mcl': ['weights/*.safetensors', 'weights/*.json', 'reference/*.csv']},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require={name: cfg[f'{name}_requirements'].split() for name in EXTRAS},
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    zip_safe=False,
)
