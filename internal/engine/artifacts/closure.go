package artifacts

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// file is one member of an image layer or archive. Exactly one of source, link, content and dir is set.
type file struct {
	source  string // path on this machine
	link    string // target of a symbolic link
	content []byte
	dir     bool
	mode    int64
}

// fileSet maps paths without a leading slash to files.
type fileSet map[string]file

// paths returns the paths in order, so that directories come before what is in them.
func (s fileSet) paths() []string { return slices.Sorted(maps.Keys(s)) }

// debianFiles collects paths of a Debian tree together with the links on the way to them and the dynamic linker and
// libraries of programs among them: what an image needs to run them, and no package manager.
type debianFiles struct {
	root  string
	files fileSet
}

// collect adds everything that the pattern matches; matching nothing is an error.
func (d *debianFiles) collect(pattern string) error {
	matches, err := filepath.Glob(filepath.Join(d.root, pattern))
	if err != nil {
		return fmt.Errorf("versions.json: pattern %q: %w", pattern, err)
	}
	if len(matches) == 0 {
		return fmt.Errorf("versions.json: %q is not in the Debian tree", pattern)
	}
	for _, m := range matches {
		if err := d.add(strings.TrimPrefix(m, d.root), 0); err != nil {
			return err
		}
	}
	return nil
}

func (d *debianFiles) add(name string, links int) error {
	if links > 40 {
		return fmt.Errorf("too many symbolic links at %s of the Debian tree", name)
	}
	at := "/"
	elements := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	for i, e := range elements {
		next := path.Join(at, e)
		info, err := os.Lstat(filepath.Join(d.root, next))
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(filepath.Join(d.root, next))
			if err != nil {
				return err
			}
			d.files[next[1:]] = file{link: target, mode: 0o777}
			if !path.IsAbs(target) {
				target = path.Join(at, target)
			}
			return d.add(path.Join(append([]string{target}, elements[i+1:]...)...), links+1)
		}
		at = next
	}
	if _, seen := d.files[at[1:]]; seen {
		return nil
	}
	source := filepath.Join(d.root, at)
	info, err := os.Lstat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		d.files[at[1:]] = file{dir: true, mode: int64(info.Mode().Perm())}
		entries, err := os.ReadDir(source)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := d.add(path.Join(at, e.Name()), 0); err != nil {
				return err
			}
		}
		return nil
	}
	d.files[at[1:]] = file{source: source, mode: int64(info.Mode().Perm())}
	needed, err := libraries(source)
	if err != nil {
		return fmt.Errorf("read libraries of %s: %w", at, err)
	}
	for _, lib := range needed {
		if !path.IsAbs(lib) {
			if lib, err = d.find(lib); err != nil {
				return fmt.Errorf("%s needs it: %w", at, err)
			}
		}
		if err := d.add(lib, 0); err != nil {
			return err
		}
	}
	return nil
}

// find looks for a library where Debian's dynamic linker does.
func (d *debianFiles) find(lib string) (string, error) {
	for _, dir := range []string{"usr/lib/*-linux-*", "usr/lib", "usr/local/lib"} {
		if m, err := filepath.Glob(filepath.Join(d.root, dir, lib)); err == nil && len(m) > 0 {
			return strings.TrimPrefix(m[0], d.root), nil
		}
	}
	return "", fmt.Errorf("library %s is not in the Debian tree", lib)
}

// libraries returns the dynamic linker (a path) and the libraries (names) of an ELF file; nothing for another file.
func libraries(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	magic := make([]byte, len(elf.ELFMAG))
	if _, err := io.ReadFull(f, magic); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || err == nil && string(magic) != elf.ELFMAG {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return nil, err
	}
	needed, err := e.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			interp, err := io.ReadAll(p.Open())
			if err != nil {
				return nil, err
			}
			needed = append(needed, strings.TrimRight(string(interp), "\x00"))
		}
	}
	return needed, nil
}

// mergedUsr adds Debian's links of /bin, /sbin and /lib* into /usr.
func (d *debianFiles) mergedUsr() error {
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		target, err := os.Readlink(filepath.Join(d.root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		d.files[name] = file{link: target, mode: 0o777}
	}
	return nil
}
