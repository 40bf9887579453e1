package sandbox

import (
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"

	"github.com/wsmesh/wsmesh/mesh"
)

// What Guard takes apart. A script beyond these is not judged: nobody writes one
// by hand, and the parser's stack grows with every level.
const (
	maxGuarded = 64 << 10 // bytes of one script
	maxOpened  = 2000     // words and signs in it that open a level
	maxLevels  = 8        // scripts in scripts
	maxBraces  = 64       // parts of one word with braces, and words that it stands for
)

// Guard refuses (CodeDenied) a command that would destroy what it should work on
// or reach beyond it, by what its shell syntax tree says: a recursive removal of
// root, of home or of the workspace root, writes to devices and system files,
// programs that are piped into an interpreter, fork bombs, tools for other
// users' rights, and shutting down. argv is the command, home the root of what it
// sees of its workspace (Spec.Mount), dir its working directory in there.
//
// It is a rail against accidents and not the isolation: a program can do all of
// this without saying so. What it cannot take apart passes.
func Guard(argv []string, home, dir string) (err error) {
	// The parser is another's and the script anybody's.
	defer func() { _ = recover() }()
	g := &guard{home: home, dir: dir}
	words := make([]word, len(argv))
	for i, a := range argv {
		words[i] = word{text: a}
	}
	g.simple(words, nil)
	if g.found == "" {
		return nil
	}
	return mesh.Errorf(mesh.CodeDenied, "exec: the command guard refuses %s; "+
		"change the command, or allow it by name (--allow-dangerous) if it is meant", g.found)
}

// guard walks one command.
type guard struct {
	home   string
	dir    string // working directory, "" once it is not known
	levels int
	found  string // the first thing that was found
}

func (g *guard) refuse(what string) {
	if g.found == "" {
		g.found = what
	}
}

// unknown stands in a word for what only the running shell knows.
const unknown = "\x00"

// word is a shell word with its quotes taken off.
type word struct {
	text    string // with home as "~", and unknown
	fetches bool   // its text comes from the network
}

// script judges a shell script.
func (g *guard) script(text string) {
	if len(text) > maxGuarded || g.levels >= maxLevels || opened(text) > maxOpened {
		return
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil {
		return // the shell will say the same
	}
	g.levels++
	g.walk(file)
	g.levels--
}

// opened counts what may open a level of the syntax tree.
func opened(text string) (n int) {
	for _, sign := range []string{"(", "{", "`", "if", "while", "until", "for", "case", "select", "!", "["} {
		n += strings.Count(text, sign)
	}
	return n
}

func (g *guard) walk(node syntax.Node) {
	syntax.Walk(node, func(node syntax.Node) bool {
		switch n := node.(type) {
		case *syntax.CallExpr:
			g.simple(g.words(n.Args), nil)
		case *syntax.BinaryCmd:
			if n.Op == syntax.Pipe || n.Op == syntax.PipeAll {
				g.pipe(n)
			}
		case *syntax.Stmt:
			g.redirects(n)
		case *syntax.FuncDecl:
			if n.Name != nil {
				g.bomb(n.Name.Value, n.Body)
			}
		}
		return g.found == ""
	})
}

// words takes the quotes off and expands braces.
func (g *guard) words(args []*syntax.Word) []word {
	var all []word
	for _, arg := range args {
		for _, w := range braces(arg) {
			all = append(all, g.word(w))
		}
	}
	return all
}

// braces expands the braces of a word, if they stand for few words.
func braces(w *syntax.Word) []*syntax.Word {
	clone := &syntax.Word{Parts: slices.Clone(w.Parts)}
	if !syntax.SplitBraces(clone) || len(clone.Parts) > maxBraces {
		return []*syntax.Word{w}
	}
	var all []*syntax.Word
	for one, err := range expand.BracesSeq(nil, clone) {
		if err != nil || len(all) == maxBraces {
			return []*syntax.Word{w}
		}
		all = append(all, one)
	}
	return all
}

func (g *guard) word(w *syntax.Word) word {
	var out word
	var text strings.Builder
	parts(w.Parts, false, &text, &out)
	out.text = text.String()
	return out
}

func parts(list []syntax.WordPart, quoted bool, text *strings.Builder, out *word) {
	for i, part := range list {
		switch p := part.(type) {
		case *syntax.Lit:
			text.WriteString(literal(p.Value, quoted))
		case *syntax.SglQuoted:
			if i == 0 && strings.HasPrefix(p.Value, "~") {
				text.WriteString("./")
			}
			text.WriteString(p.Value)
		case *syntax.DblQuoted:
			parts(p.Parts, true, text, out)
		case *syntax.ParamExp:
			text.WriteString(variable(p))
		case *syntax.CmdSubst:
			out.fetches = out.fetches || fetches(p)
			text.WriteString(unknown)
		case *syntax.ProcSubst:
			out.fetches = out.fetches || fetches(p)
			text.WriteString(unknown)
		default:
			text.WriteString(unknown)
		}
	}
}

// literal takes the backslashes off.
func literal(text string, quoted bool) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) && (!quoted || strings.IndexByte("$`\"\\\n", text[i+1]) >= 0) {
			i++
			if text[i] == '\n' {
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

func variable(p *syntax.ParamExp) string {
	if p.Param == nil {
		return unknown
	}
	switch p.Param.Value {
	case "HOME":
		return "~"
	case "PWD":
		return "."
	}
	return unknown
}

// absolute is where a path of the command leads, "" if that is not known.
func (g *guard) absolute(p string) string {
	switch {
	case p == "" || strings.Contains(p, unknown):
		return ""
	case p == "~" || strings.HasPrefix(p, "~/"):
		return path.Clean(g.home + p[1:])
	case strings.HasPrefix(p, "~"): // somebody's home
		return "/home/" + p[1:]
	case strings.HasPrefix(p, "/"):
		return path.Clean(p)
	case g.dir == "":
		return ""
	}
	return path.Join(g.dir, p)
}
