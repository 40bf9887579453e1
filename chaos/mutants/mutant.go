//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// patchDir is where the patches are, below the repository's root.
const patchDir = "chaos/mutants"

// mutant is one patch: the promise it breaks and the test that must go red.
type mutant struct {
	name    string
	file    string // absolute
	promise string
	test    witness
}

// witness is the test that must notice.
type witness struct{ pkg, run string }

func (w witness) String() string { return w.pkg + " -run " + w.run }

// readMutants reads the named patches, or all of them. That there are none is
// an error: nothing is proved then.
func readMutants(root string, names []string) ([]mutant, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		found, err := filepath.Glob(filepath.Join(root, patchDir, "*.patch"))
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			names = append(names, strings.TrimSuffix(filepath.Base(f), ".patch"))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no patches in %s", patchDir)
	}
	var all []mutant
	for _, name := range names {
		file := filepath.Join(root, patchDir, name+".patch")
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		m, err := parseMutant(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s.patch: %w", name, err)
		}
		m.name, m.file = name, file
		all = append(all, m)
	}
	return all, nil
}

// parseMutant reads the lines above the diff.
func parseMutant(text string) (mutant, error) {
	var m mutant
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "diff ") || strings.HasPrefix(line, "--- ") {
			break
		}
		if v, ok := strings.CutPrefix(line, "Promise:"); ok {
			m.promise = strings.TrimSpace(v)
		}
		if v, ok := strings.CutPrefix(line, "Test:"); ok {
			args, err := words(strings.TrimSpace(v))
			if err != nil {
				return m, err
			}
			if len(args) == 3 && args[1] == "-run" {
				m.test = witness{args[0], args[2]}
			}
		}
	}
	if m.promise == "" {
		return m, errors.New("no line 'Promise: …' above the diff")
	}
	if m.test == (witness{}) {
		return m, errors.New("no line 'Test: ./package -run 'TestName'' above the diff")
	}
	return m, nil
}

// words splits at spaces outside single quotes.
func words(line string) ([]string, error) {
	var all []string
	word, quoted, open := "", false, false
	for _, r := range line {
		switch {
		case r == '\'':
			open, quoted = !open, true
		case r == ' ' && !open:
			if word != "" || quoted {
				all = append(all, word)
			}
			word, quoted = "", false
		default:
			word += string(r)
		}
	}
	if open {
		return nil, fmt.Errorf("a quote is not closed in %q", line)
	}
	if word != "" || quoted {
		all = append(all, word)
	}
	return all, nil
}
