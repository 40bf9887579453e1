package sandbox

import (
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/wsmesh/wsmesh/mesh"
)

var (
	shells       = []string{"sh", "bash", "dash", "zsh", "ksh", "ash", "fish"}
	interpreters = append([]string{"python", "perl", "ruby", "node", "nodejs", "php", "lua", "deno", "bun"}, shells...)
	fetchers     = []string{"curl", "wget", "aria2c", "fetch", "http", "https", "lynx"}
	privileges   = []string{"sudo", "su", "doas", "pkexec", "runuser", "sudoedit"}
	stoppers     = []string{"shutdown", "reboot", "halt", "poweroff", "telinit"}
	formatters   = []string{"mkfs", "fdisk", "sfdisk", "cfdisk", "parted", "wipefs", "mkswap"}
	// harmless are devices that a command may write.
	harmless = []string{"null", "zero", "full", "tty", "stdin", "stdout", "stderr", "random", "urandom", "ptmx", "console", "fd", "pts", "shm", "tcp", "udp"}
	// ours are the top-level directories whose contents a command may remove.
	ours = []string{mesh.WorkspaceRoot, "/tmp", "/var/tmp", "/dev/shm"}
	// prefixes run the command that follows them, after options of their own.
	prefixes = []string{"env", "nohup", "nice", "ionice", "time", "timeout", "stdbuf", "setsid", "command", "builtin", "exec", "busybox", "xargs", "chrt", "taskset", "unbuffer", "then", "do"}
)

// program is the name of a command without its directory and version.
func program(text string) string {
	if text == "." {
		return text
	}
	return strings.TrimRight(strings.ToLower(path.Base(text)), "0123456789.")
}

// simple judges one command, without its redirections. in is the text of its
// standard input, if that is known.
func (g *guard) simple(words []word, in *word) {
	words = unwrap(words)
	if len(words) == 0 {
		return
	}
	name, args := program(words[0].text), words[1:]
	full := strings.ToLower(path.Base(words[0].text))
	switch {
	case slices.Contains(privileges, name):
		g.refuse("the use of another user's rights (" + name + ")")
	case slices.Contains(stoppers, name) || name == "init" && anyOf(args, "0", "6") ||
		name == "systemctl" && anyOf(args, "poweroff", "reboot", "halt", "kexec", "suspend", "hibernate"):
		g.refuse("shutting down (" + name + ")")
	case slices.Contains(formatters, name) || strings.HasPrefix(full, "mkfs."):
		g.refuse("formatting a device (" + full + ")")
	case (name == "iptables" || name == "ip6tables") && anyOf(args, "-F", "--flush"), name == "nft" && anyOf(args, "flush"),
		name == "ifconfig" && anyOf(args, "down"):
		g.refuse("changes of the network's rules (" + name + ")")
	case name == "rm":
		g.remove(args)
	case name == "find":
		g.find(args)
	case name == "chmod" || name == "chown" || name == "chgrp":
		g.own(name, args)
	case name == "dd" || name == "tee" || name == "cp" || name == "mv" || name == "shred" || name == "truncate":
		g.write(name, args)
	case name == "cd" || name == "pushd":
		g.cd(args)
	case name == "eval":
		g.eval(args)
	case name == "source" || name == ".":
		if len(args) > 0 && args[0].fetches {
			g.refuse("a downloaded program that is run unseen")
		}
	case slices.Contains(interpreters, name):
		g.interpret(name, args, in)
	}
}

// unwrap drops variables and programs that only run another.
func unwrap(words []word) []word {
	for len(words) > 0 {
		text := words[0].text
		switch {
		case isAssignment(text):
			words = words[1:]
		case slices.Contains(prefixes, program(text)) || strings.HasPrefix(program(text), "busybox"):
			words = words[1:]
			// Their options, with values such as "5" of "timeout -k 5 60".
			for len(words) > 0 && (strings.HasPrefix(words[0].text, "-") || isAssignment(words[0].text) || isAmount(words[0].text)) {
				words = words[1:]
			}
		default:
			return words
		}
	}
	return nil
}

// isAmount tells a number or a time, such as 5 or 1.5s.
func isAmount(text string) bool {
	return text != "" && '0' <= text[0] && text[0] <= '9' && strings.Trim(text, "0123456789.smhd") == ""
}

func isAssignment(text string) bool {
	name, _, ok := strings.Cut(text, "=")
	return ok && isBareName(name)
}

// isBareName tells a name as a shell has it; as an entry of an environment it takes
// a variable away, so that a value whose "NAME=" was forgotten is still an error.
func isBareName(kv string) bool {
	for i, c := range []byte(kv) {
		letter := c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return kv != ""
}

func anyOf(args []word, texts ...string) bool {
	return slices.ContainsFunc(args, func(w word) bool { return slices.Contains(texts, w.text) })
}

// flagged reports whether one of the short flags or a beginning of the long one
// is among the arguments.
func flagged(args []word, short, long string) bool {
	for _, a := range args {
		switch {
		case a.text == "--":
			return false
		case strings.HasPrefix(a.text, "--"):
			if len(a.text) > 3 && strings.HasPrefix(long, a.text) {
				return true
			}
		case strings.HasPrefix(a.text, "-") && strings.ContainsAny(a.text, short):
			return true
		}
	}
	return false
}

// operands are the arguments that are not flags.
func operands(args []word) []word {
	var list []word
	for i, a := range args {
		if a.text == "--" {
			return append(list, args[i+1:]...)
		}
		if !strings.HasPrefix(a.text, "-") {
			list = append(list, a)
		}
	}
	return list
}

// remove judges rm.
func (g *guard) remove(args []word) {
	if anyOf(args, "--no-preserve-root") {
		g.refuse("rm --no-preserve-root")
		return
	}
	if !flagged(args, "rR", "--recursive") {
		return
	}
	for _, a := range operands(args) {
		if g.precious(a.text) {
			g.refuse("the recursive removal of " + show(a.text))
			return
		}
	}
}

// precious reports whether a path is the root, a home, the workspace's root, all
// that is in one of them, or of the system.
func (g *guard) precious(p string) bool {
	at := g.absolute(p)
	if at == "" {
		return false
	}
	for strings.HasSuffix(at, "/*") || strings.HasSuffix(at, "/.*") {
		at = path.Dir(at)
		if slices.Contains(ours[1:], at) {
			return false
		}
	}
	switch {
	case at == g.home || strings.HasPrefix(g.home, at+"/"):
		return true
	case slices.Contains(ours, at):
		return false
	}
	return !slices.ContainsFunc(ours, func(dir string) bool { return strings.HasPrefix(at, dir+"/") })
}

// find judges a find that removes.
func (g *guard) find(args []word) {
	removes := anyOf(args, "-delete")
	for i, a := range args {
		if (a.text == "-exec" || a.text == "-execdir" || a.text == "-ok") && i+1 < len(args) {
			removes = removes || program(args[i+1].text) == "rm"
			g.simple(args[i+1:], nil)
		}
	}
	// With a condition it is a search, without one a removal of everything.
	if !removes || anyOf(args, "-name", "-iname", "-path", "-regex", "-mtime", "-newer", "-size", "-empty", "-maxdepth") {
		return
	}
	for _, a := range args {
		if strings.HasPrefix(a.text, "-") || a.text == "(" || a.text == "!" {
			return
		}
		if g.precious(a.text) {
			g.refuse("the removal of everything below " + show(a.text))
		}
	}
}

// own judges changes of modes and owners.
func (g *guard) own(name string, args []word) {
	list := operands(args)
	if len(list) == 0 {
		return
	}
	if name == "chown" && (list[0].text == "root" || strings.HasPrefix(list[0].text, "root:")) {
		g.refuse("giving files to root (chown)")
	}
	for _, a := range list[1:] {
		if at := g.absolute(a.text); at != "" && !strings.HasPrefix(at+"/", mesh.WorkspaceRoot+"/") && g.precious(a.text) {
			g.refuse("changes of the system's files (" + name + " " + show(a.text) + ")")
		}
	}
}

// write judges programs that write where their arguments say.
func (g *guard) write(name string, args []word) {
	targets := operands(args)
	switch name {
	case "dd":
		for _, a := range args {
			if of, ok := strings.CutPrefix(a.text, "of="); ok {
				g.target(of)
			}
		}
		return
	case "cp", "mv":
		targets = targets[max(0, len(targets)-1):]
	}
	for _, a := range targets {
		g.target(a.text)
	}
}

// target judges a file that is written.
func (g *guard) target(p string) {
	at := g.absolute(p)
	if device, ok := strings.CutPrefix(at, "/dev/"); ok {
		first, _, _ := strings.Cut(device, "/")
		if !slices.Contains(harmless, strings.TrimRight(first, "0123456789")) {
			g.refuse("writing to the device " + show(at))
		}
	}
	for _, dir := range []string{"/etc", "/boot", "/sys", "/proc/sys"} {
		if strings.HasPrefix(at, dir+"/") {
			g.refuse("writing to the system's file " + show(at))
		}
	}
}

func (g *guard) redirects(s *syntax.Stmt) {
	for _, r := range s.Redirs {
		switch r.Op {
		case syntax.RdrOut, syntax.AppOut, syntax.RdrAll, syntax.AppAll, syntax.RdrClob, syntax.RdrInOut:
			g.target(g.word(r.Word).text)
		case syntax.Hdoc, syntax.DashHdoc, syntax.WordHdoc:
			call, ok := s.Cmd.(*syntax.CallExpr)
			if !ok {
				continue
			}
			text := r.Hdoc
			if r.Op == syntax.WordHdoc {
				text = r.Word
			}
			if text != nil {
				in := g.word(text)
				g.simple(g.words(call.Args), &in)
			}
		}
	}
}

// cd follows the working directory, as far as it is known.
func (g *guard) cd(args []word) {
	list := operands(args)
	switch {
	case len(list) == 0:
		g.dir = g.home
	default:
		g.dir = g.absolute(list[0].text)
	}
}

func (g *guard) eval(args []word) {
	var texts []string
	for _, a := range args {
		if a.fetches {
			g.refuse("a downloaded program that is run unseen")
			return
		}
		texts = append(texts, a.text)
	}
	g.script(strings.ReplaceAll(strings.Join(texts, " "), unknown, `"$X"`))
}

// interpret judges what a shell or another interpreter is given to run.
func (g *guard) interpret(name string, args []word, in *word) {
	shell := slices.Contains(shells, name)
	for i, a := range args {
		switch {
		case a.fetches:
			g.refuse("a downloaded program that is run unseen")
			return
		case shell && strings.HasPrefix(a.text, "-") && !strings.HasPrefix(a.text, "--") && strings.Contains(a.text, "c") && i+1 < len(args):
			if args[i+1].fetches {
				g.refuse("a downloaded program that is run unseen")
				return
			}
			g.script(strings.ReplaceAll(args[i+1].text, unknown, `"$X"`))
			return
		}
	}
	if shell && in != nil && readsProgram(args) {
		if in.fetches {
			g.refuse("a downloaded program that is run unseen")
			return
		}
		g.script(strings.ReplaceAll(in.text, unknown, `"$X"`))
	}
}

// readsProgram reports whether an interpreter with these arguments takes its
// program from standard input.
func readsProgram(args []word) bool {
	for _, a := range args {
		switch {
		case a.text == "-" || a.text == "-s" || a.text == "/dev/stdin":
			return true
		case !strings.HasPrefix(a.text, "-"), strings.HasPrefix(a.text, "-c"), a.text == "-e", a.text == "-m", a.text == "-n", a.text == "-p":
			return false
		}
	}
	return true
}

// pipe judges an interpreter that gets its program through a pipe: a shell from
// anywhere, any other from the network.
func (g *guard) pipe(p *syntax.BinaryCmd) {
	call, ok := p.Y.Cmd.(*syntax.CallExpr)
	if !ok {
		return
	}
	words := unwrap(g.words(call.Args))
	for len(words) > 0 && slices.Contains(privileges, program(words[0].text)) {
		words = unwrap(words[1:])
	}
	if len(words) == 0 || !slices.Contains(interpreters, program(words[0].text)) || !readsProgram(words[1:]) {
		return
	}
	switch {
	case fetches(p.X):
		g.refuse("a downloaded program that is run unseen")
	case slices.Contains(shells, program(words[0].text)):
		g.refuse("a program that is piped into " + program(words[0].text))
	}
}

// fetches reports whether a part of a script asks the network for something.
func fetches(node syntax.Node) (found bool) {
	g := &guard{}
	syntax.Walk(node, func(node syntax.Node) bool {
		if call, ok := node.(*syntax.CallExpr); ok {
			words := unwrap(g.words(call.Args))
			found = found || len(words) > 0 && slices.Contains(fetchers, program(words[0].text))
		}
		return !found
	})
	return found
}

// bomb judges a function that starts itself more than once at a time.
func (g *guard) bomb(name string, body *syntax.Stmt) {
	calls := func(s *syntax.Stmt) bool {
		call, ok := s.Cmd.(*syntax.CallExpr)
		return ok && len(call.Args) > 0 && call.Args[0].Lit() == name
	}
	syntax.Walk(body, func(node syntax.Node) bool {
		switch n := node.(type) {
		case *syntax.BinaryCmd:
			if (n.Op == syntax.Pipe || n.Op == syntax.PipeAll) && (calls(n.X) || calls(n.Y)) {
				g.refuse("a fork bomb")
			}
		case *syntax.Stmt:
			if n.Background && calls(n) {
				g.refuse("a fork bomb")
			}
		}
		return g.found == ""
	})
}

func show(p string) string {
	if len(p) > 80 {
		p = p[:80] + "…"
	}
	return strings.ReplaceAll(p, unknown, "…")
}
