"""Package metadata lives in settings.ini, which nbdev reads too; this file hands it to setuptools."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here / 'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
readme = (here / 'README.md').read_text(encoding='utf-8')
place = f"{cfg['git_url']}/raw/{cfg['branch']}/"  # links and pictures that work away from the repository
readme = re.sub(r'(\]\(|src=")(?!https?:|#)', rf'\1{place}', readme)
extras = {
    name: cfg[f'{name}_requirements'].split()
    for name in ('train', 'plots', 'imagenet', 'community', 'tensorboard', 'onnx', 'openvino')
}
for name in ('imagenet', 'tensorboard', 'onnx', 'openvino'):  # of no use without the network itself
    extras[name] = extras['train'] + extras[name]
extras['all'] = sorted(set(sum(extras.values(), [])))
extras['dev'] = extras['all'] + cfg['dev_requirements'].split()

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=readme,
    long_description_content_type='text/markdown',
    author=cfg['author'],
    url=cfg['git_url'],
    keywords=cfg['keywords'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    license='Apache-2.0',
    packages=find_packages(include=['mcl', 'mcl.*']),
    package_data={
        'mcl': ['py.typed', 'weights/*.safetensors', 'weights/*.json', 'reference/*.csv', 'templates/*']
    },
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    zip_safe=False,
)
