package dlock

// Whole programs: the examples, and the ways to build.

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func run(t *testing.T, env []string, words ...string) (string, error) {
	t.Helper()
	command := exec.Command(words[0], words[1:]...)
	command.Env = append(os.Environ(), env...)
	var errors bytes.Buffer
	command.Stderr = &errors
	output, err := command.Output()
	return string(output) + errors.String(), err
}

func build(t *testing.T, program string, words ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(program))
	output, err := run(t, nil, append(append([]string{"go", "build", "-o", path}, words...), "./"+program)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return path
}

func (s *server) env() []string { return []string{"REDIS_HOST=127.0.0.1", "REDIS_PORT=" + s.port} }

func TestExamples(t *testing.T) {
	for name, expected := range map[string]string{
		"quickstart": "Executing critical section...\n",
		"competing": "Goroutine 1: Attempting to acquire lock\nGoroutine 1: Lock acquired\n" +
			"Goroutine 2: Attempting to acquire lock\nGoroutine 1: Lock released\n" +
			"Goroutine 2: Lock acquired\nGoroutine 2: Lock released\n",
		"timeout": "TryLock of the first: true <nil>\nTryLock of the second: false <nil>\ntimed out: true\n" +
			"after the release: <nil>\n",
		"backoff": "while it is held, timed out: true\nwhile it is being released: <nil>\n",
		"ownership": "before: locked false, by mine false, by other false, owner is mine false\n" +
			"held: locked true, by mine true, by other false, owner is mine true\n" +
			"unlocking somebody else's, not owner: true\n" +
			"after: locked false, by mine false, by other false, owner is mine false\n" +
			"unlocking again, unlocked: true\n",
	} {
		t.Run(name, func(t *testing.T) {
			output, err := run(t, privateServer(t).env(), build(t, "examples/"+name))
			if err != nil || output != expected {
				t.Errorf("%v\n%s", err, output)
			}
		})
	}
}

func TestStaticLink(t *testing.T) {
	program := build(t, "examples/quickstart", "-tags", "dlock_static")
	if libraries, err := run(t, nil, "ldd", program); err != nil || strings.Contains(libraries, "dlock") {
		t.Fatalf("%v\n%s", err, libraries)
	}
	if output, err := run(t, shared.env(), program); err != nil || output != "Executing critical section...\n" {
		t.Fatalf("%v\n%s", err, output)
	}
}

func TestPkgConfig(t *testing.T) {
	include, library := places(t)
	directory := t.TempDir()
	if _, err := exec.LookPath("pkg-config"); err != nil {
		// A machine without pkg-config: go build asks it for flags in two calls, which this answers.
		stub := filepath.Join(directory, "pkg-config")
		text := "#!/bin/sh\ncase \"$*\" in\n*--cflags*) echo '-I" + include + "' ;;\n*--libs*) echo '-L" + library +
			" -ldlock -Wl,-rpath," + library + "' ;;\nesac\n"
		if err := os.WriteFile(stub, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PKG_CONFIG", stub)
	}
	text := "Name: dlock\nDescription: locks\nVersion: 0\nCflags: -I" + include + "\nLibs: -L" + library +
		" -ldlock -Wl,-rpath," + library + "\n"
	if err := os.WriteFile(filepath.Join(directory, "dlock.pc"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PKG_CONFIG_PATH", directory)
	t.Setenv("CGO_CFLAGS", "")
	t.Setenv("CGO_LDFLAGS", "")
	program := build(t, "examples/quickstart", "-tags", "dlock_pkgconfig")
	if output, err := run(t, shared.env(), program); err != nil || output != "Executing critical section...\n" {
		t.Fatalf("%v\n%s", err, output)
	}
}

// places are the directories of the header and of the library.
func places(t *testing.T) (include, library string) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	include, library = filepath.Join(root, "include"), filepath.Join(root, "target", "release")
	if given := os.Getenv("DLOCK_LIB_DIR"); given != "" {
		library = given
	}
	return include, library
}

// A copy of the package in a place without the library around it: the compiler says what to do.
func TestAMissingLibraryIsExplained(t *testing.T) {
	copied := filepath.Join(t.TempDir(), "a", "b", "go")
	if err := os.MkdirAll(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err == nil && !strings.HasSuffix(file, "_test.go") {
			err = os.WriteFile(filepath.Join(copied, file), content, 0o600)
		}
		if info, _ := os.Stat(file); err != nil && !info.IsDir() {
			t.Fatal(err)
		}
	}
	t.Chdir(copied)
	none := []string{"CGO_CFLAGS=", "CGO_LDFLAGS=", "C_INCLUDE_PATH=", "CPATH="}
	for tags, expected := range map[string]string{"": "make build", "dlock_static": "make build"} {
		output, err := run(t, none, "go", "build", "-tags", tags, ".")
		if err == nil || !strings.Contains(output, expected) {
			t.Errorf("tags %q: %v\n%s", tags, err, output)
		}
	}
	output, err := run(t, append(none, "CGO_ENABLED=0"), "go", "build", ".")
	if err == nil || !strings.Contains(output, "CGO_ENABLED") {
		t.Errorf("without cgo: %v\n%s", err, output)
	}
}
