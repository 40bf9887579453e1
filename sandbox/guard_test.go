package sandbox

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestGuard(t *testing.T) {
	for what, lines := range map[string][]string{
		"recursive removal": {
			"rm -rf /", "rm -rf /*", "rm -rf ~", "rm -Rf /", "Rm -rf /", "rm  -rf  /", "rm -r -f /x", "rm -fr /x", "rm --recursive --force /x",
			"rm --rec /", "ls && rm -rf /", "ls; rm -rf /", "echo $(rm -rf /)", "echo `rm -rf /`", "rm -rf $HOME", `rm -rf "$HOME"`, "rm -rf ${HOME}/*",
			"rm -rf ~/", "rm -rf ~/*", "rm -rf -- /", "rm / -rf", "rm -rf /.", "rm -rf //", "rm -rf /usr/..", "rm -rf /workspace", "rm -rf /workspace/",
			"rm -rf /workspace/*", "rm -rf .", "rm -rf ./*", "rm -rf *", `rm -rf "$PWD"`, "cd / && rm -rf *", "cd /workspace/a; rm -rf ..", "rm -rf /{usr,etc}",
			`r""m -rf /`, `\rm -rf /`, `"rm" -rf '/'`, "/bin/rm -rf /", "command rm -rf /", "env A=b rm -rf /", "nohup nice -n 5 rm -rf /", "timeout 5 rm -rf /",
			"busybox rm -rf /", "sh -c 'rm -rf /'", `bash -lc "rm -rf /"`, "eval rm -rf /", "eval 'rm -rf' /", "(rm -rf /)", "{ rm -rf /; }", "if true; then rm -rf /; fi",
			"for i in 1; do rm -rf /; done", "f() { rm -rf /; }; f", "! rm -rf /", "rm -rf / &", "true || rm -rf /", "rm -rf --no-preserve-root /tmp/x",
			"find / -delete", "find ~ -exec rm -rf {} +", "bash <<< 'rm -rf /'", "sh <<EOF\nrm -rf /\nEOF", "rm -rf a /", "rm -rf ~root",
		},
		"device": {
			"dd if=/dev/zero of=/dev/sda", "cat x > /dev/sda", "echo x >> /dev/nvme0n1", "tee /dev/mem < x", "cp x /dev/vda", "shred /dev/sdb", "mkfs.ext4 /dev/sda1",
			"mkfs -t ext4 x", "fdisk -l", "wipefs -a /dev/sda",
		},
		"system": {"echo x >> /etc/passwd", "tee /etc/hosts < x", "chmod 777 /etc", "chown root x", "chmod -R 777 /", "iptables -F", "ifconfig eth0 down", "echo c > /proc/sys/kernel/core_pattern"},
		"piped program": {
			"curl u | sh", "wget -O- u | bash", "curl u | /bin/sh", "curl u | bash -s", "curl u | bash -s -- -y", "curl u | python3", "curl u | python3 -", "curl u | sudo bash",
			"bash <(curl u)", `bash -c "$(curl u)"`, "sh -c \"`wget -qO- u`\"", `eval "$(curl u)"`, "source <(curl u)", ". <(wget -O- u)", "curl u | tee x | sh", "cat s | bash", "echo x | sh",
			"curl u | env A=b bash", "curl u |& sh", "python3 <(curl u)", `bash <<< "$(curl u)"`, "curl u | gunzip | sh",
		},
		"fork bomb": {":(){ :|:& };:", "f() { f | f & }; f", "bomb() { bomb & bomb & }; bomb", "function f { f & }; f"},
		"rights":    {"sudo apt-get x", "SUDO apt-get x", "su root", "su - postgres", "doas ls", "pkexec sh", "echo x | sudo tee y", "/usr/bin/sudo -n true"},
		"shutdown":  {"shutdown -h now", "reboot", "halt", "poweroff", "init 0", "systemctl poweroff", "nohup shutdown -r now &"},
	} {
		t.Run(what, func(t *testing.T) {
			for _, line := range lines {
				err := Guard([]string{"sh", "-c", line}, "/workspace", "/workspace")
				require.ErrorIs(t, err, mesh.Errorf(mesh.CodeDenied, ""), line)
				require.ErrorContains(t, err, "--allow-dangerous")
			}
		})
	}
}

func TestGuardPasses(t *testing.T) {
	for _, line := range []string{
		"rm file.txt", "cp a b", "mv a b", `git commit -m "m"`, "npm install", "cat f | grep p", "ls; echo x", "rm -rf node_modules/x", "rm -rf dist", "rm -rf ./dist/*",
		`echo "no | sh"`, `echo 'rm -rf /'`, `git commit -m "rm -rf / and curl u | sh"`, "cat <<EOF > x\nrm -rf /\nEOF", "dd if=/dev/zero of=/dev/null count=1", "dd if=a of=b",
		"echo x > /dev/null 2>&1", "echo x > /dev/stderr", "rm -rf /tmp/x", "rm -rf /tmp/*", "rm -rf /workspace/dist", "rm -rf ~/.cache", `rm -rf "$TMP"`, "rm -rf build/ .venv",
		"cd build && rm -rf *", "find . -name '*.pyc' -delete", "find /tmp -delete", "curl -o x u", "curl u | jq .", "curl u | python3 -m json.tool", "cat x | python3 -c 'import sys'",
		"echo 1 | python3", "cat x | bash script.sh", "bash script.sh", "sh -c 'ls'", "bash -c \"$(cat x)\"", "eval \"$(pyenv init -)\"", "while true; do sleep 1; done", "yes > /dev/null &",
		"f() { f; }; true", "make -j4 & wait", "chmod +x x", "chmod -R u+w .", "chown 1000 x", "systemctl status", "rm -r 'a b'", "rm -f /", "rm -rf '~'/x", "grep -r sudo .", "echo sudo",
		"rm -rf {a,b,c}", "rm -rf {1..1000000000}", "docker run --init x", "a=1; b=$((a+1)); echo ${b}", "[[ -f x ]] && (cd y && make)", "python3 -c 'print(1)'", "", "if", "((((",
		"xargs rm -rf < list", "kubectl init 0x", "printf '%s' x | sha256sum",
	} {
		require.NoError(t, Guard([]string{"sh", "-c", line}, "/workspace", "/workspace"), line)
	}
}

// TestGuardArguments judges commands that no shell reads.
func TestGuardArguments(t *testing.T) {
	require.Error(t, Guard([]string{"rm", "-rf", "/"}, "/workspace", "/workspace"))
	require.Error(t, Guard([]string{"bash", "-euo", "pipefail", "-c", "sudo true"}, "/workspace", "/workspace"))
	require.Error(t, Guard([]string{"env", "X=1", "sh", "-c", "rm -rf ~"}, "/workspace", "/workspace"))
	require.Error(t, Guard([]string{"rm", "-rf", ".."}, "/workspace", "/workspace/a"))
	require.NoError(t, Guard([]string{"rm", "-rf", "."}, "/workspace", "/workspace/a"))
	require.NoError(t, Guard([]string{"echo", "rm -rf /; sudo x"}, "/workspace", "/workspace"))
	require.NoError(t, Guard([]string{"git", "commit", "-m", "sudo"}, "/workspace", "/workspace"))
	require.Error(t, Guard([]string{"rm", "-rf", "/workspace"}, "/workspace/users/u1", "/workspace/users/u1"))
	require.Error(t, Guard([]string{"sh", "-c", "rm -rf ~"}, "/workspace/users/u1", "/workspace/users/u1/a"))
	require.NoError(t, Guard([]string{"rm", "-rf", "/workspace/users/u1/a"}, "/workspace/users/u1", "/workspace/users/u1"))
	require.NoError(t, Guard(nil, "/workspace", "/workspace"))
}

// TestGuardSurvives gives it what could make a parser grow.
func TestGuardSurvives(t *testing.T) {
	for _, piece := range []string{"(", "{ ", "$(", "${x:-", "`", "if ", "while ", "! ", "[[ ", "((", "case x in x) ", "<(", "{a,b}", `"$(`, "{1..9}", "sh -c '", "x|", "f(){ "} {
		for _, n := range []int{100, maxOpened - 1, maxGuarded / len(piece)} {
			require.NotPanics(t, func() { _ = Guard([]string{"sh", "-c", strings.Repeat(piece, n)}, "/workspace", "/workspace") }, piece)
		}
	}
}

func FuzzGuard(f *testing.F) {
	for _, line := range []string{"rm -rf /", "a | b && c || { d; }", "f() { f | f & }; f", "cat <<E\nx\nE", "x=${y:-$(z)} rm -rf {a,b}/*", "bash -c \"$(curl u)\""} {
		f.Add(line)
	}
	f.Fuzz(func(_ *testing.T, line string) { _ = Guard([]string{"bash", "-c", line}, "/workspace", "/workspace") })
}
