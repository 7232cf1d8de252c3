import sys,pathlib,tempfile,time; sys.path.insert(0,'tests')
from mpmkit.measure import compare_cli
from servers import recorded_root
d=pathlib.Path(tempfile.mkdtemp()); d.chmod(0o755); recorded_root(d)
t=time.time()
rows=compare_cli.rows(d, sys.argv[1:])
for r in rows:
    print("  " if r.httpd==r.mpmkit else "!!", r.case,"|",r.httpd,"|",r.mpmkit)
print(time.time()-t, len(rows))
import shutil; shutil.rmtree(d)
