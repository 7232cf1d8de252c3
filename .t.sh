time flock /tmp/wt/measure.lock timeout 100 .venv/bin/python -c "
from mpmkit.measure.memory import main
main(['--scale','smoke','--beside','httpd','--ram','4GiB'])"
