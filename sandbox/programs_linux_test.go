package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPrograms runs what agents run all day. Each script prints 45.
func TestPrograms(t *testing.T) {
	b := newBwrapBench(t)
	for name, text := range map[string]string{
		"pool.py":  "import multiprocessing as m\nif __name__ == '__main__':\n    print(sum(m.Pool(4).map(abs, range(-9, 0))))\n",
		"work.js":  "const w = require('worker_threads'); if (w.isMainThread) new w.Worker(__filename); else console.log('45')\n",
		"main.c":   "#include <stdio.h>\nint main(void) { puts(\"45\"); }\n",
		"main.go":  "package main\n\nfunc main() { print(45) }\n",
		"Makefile": "all: a b\n\tcat a b | tr -d '\\n'\na b:\n\tprintf $$(test $@ = a && echo 4 || echo 5) > $@\n",
		// A package of its own, so that no registry is asked.
		"app/package.json":     `{"name": "app", "version": "1.0.0", "scripts": {"build": "node -p 'require(\"own\")'"}, "dependencies": {"own": "file:../own"}}`,
		"own/package.json":     `{"name": "own", "version": "1.0.0", "main": "index.js", "scripts": {"build": "node -p 'require(\".\")'"}}`,
		"own/index.js":         "module.exports = 45\n",
		"sum/go.mod":           "module example.com/sum\n\ngo 1.21\n",
		"sum/main.go":          "package main\n\nfunc main() { print(sum(40, 5)) }\n",
		"sum/sum.go":           "package main\n\nfunc sum(a, b int) int { return a + b }\n",
		"tree/deep/er/content": "45\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(b.dir, name)), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o666))
	}
	if b.runner.Level().Uids {
		require.NoError(t, exec.Command("chown", "-R", fmt.Sprint(b.uid, ":", b.gid), b.dir).Run())
	}
	for _, c := range []struct {
		name, program, script string
		long                  string // why it needs WSMESH_LONG=1
	}{
		{name: "git", script: "git init -q . && git add main.c && git -c user.name=a -c user.email=a@b commit -qm x && git clone -q . clone && git -C clone log --format=%s | sed s/x/45/"},
		{name: "multiprocessing", program: python, script: python + " pool.py"},
		{name: "venv", program: python, script: python + " -m venv --without-pip v && v/bin/python -c 'import sys; print(45 if sys.prefix != sys.base_prefix else 0)'"},
		{name: "pip", program: python, script: python + " -m venv v && v/bin/pip --version > said && echo 45", long: "installs pip"},
		{name: "node", program: "node", script: "node work.js"},
		{name: "npm", program: "npm", script: "cd own && npm run -s build"},
		{name: "npm install", program: "npm", script: "cd app && npm install --offline --no-audit --no-fund --no-update-notifier > said && npm run -s build", long: "takes npm ten seconds where others work too"},
		{name: "gcc", script: "gcc -o c main.c && ./c"},
		{name: "make", script: "make -s -j4"},
		{name: "go", program: "/usr/local/go/bin/go", script: "cd sum && /usr/local/go/bin/go build -o /tmp/sum . && /tmp/sum 2>&1", long: "compiles a standard library"},
		{name: "tar", script: "tar czf t.tgz tree && mkdir back && tar xzf t.tgz -C back && cat back/tree/deep/er/content"},
		{name: "find", script: "find tree -name content | xargs grep -r 45 | sed 's/.*://'"},
		{name: "awk", script: "seq 9 | awk '{ s += $1 } END { print s }'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.program == "" {
				c.program = c.name
			}
			if _, err := exec.LookPath(c.program); err != nil {
				requireOrSkip(t, filepath.Base(c.program), c.program+" is not installed")
			}
			if c.long != "" && os.Getenv("WSMESH_LONG") == "" {
				t.Skip("SKIPPED: " + c.long + "; set WSMESH_LONG=1 to run it")
			}
			o := b.run(t, "sh", "-c", c.script)
			require.Equal(t, 0, o.Code, o.stderr)
			require.Equal(t, "45", strings.TrimSpace(o.stdout), o.stderr)
		})
	}
	t.Run("a program with a terminal", func(t *testing.T) {
		requirePython(t)
		s := b.onTerminal(t, python, "-q")
		s.out.waitFor(t, ">>> ")
		s.types(t, "import sys; print(sys.stdin.isatty(), 9 * 5)\n")
		s.out.waitFor(t, "True 45\r\n>>> ") // between lines the end of input would be the shell's, and lost
		s.types(t, "\x04")
		res, _ := s.ends(t)
		require.Equal(t, 0, res.Code)
	})
	t.Run("programs of a terminal of their own", func(t *testing.T) {
		requirePython(t)
		o := b.run(t, python, "-c", "import pty, sys; sys.exit(pty.spawn(['sh', '-c', 'test -t 0 && tty > /dev/null && echo 45']))")
		require.Equal(t, "45", strings.TrimSpace(o.stdout), o.stderr)
	})
}
