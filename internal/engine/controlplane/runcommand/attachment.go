package runcommand

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Bounds of what comes with a command. All of it travels in one Secret, of which Kubernetes takes a MiB.
const (
	maxFiles = 500
	maxBytes = 900 << 10
)

// file is one attached file.
type file struct {
	path       string // relative and clean
	data       []byte
	executable bool
}

// unpack reads the zip of a command's attachments. It comes from a client: sizes are counted as they are read, not as
// the archive states them, and nothing has a path that leads out of the working directory.
func unpack(archive []byte) ([]file, error) {
	if len(archive) == 0 {
		return nil, nil
	}
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return nil, fmt.Errorf("it is not a zip archive: %w", err)
	}
	var files []file
	names := map[string]bool{} // of files: true; of directories: false
	left := int64(maxBytes)
	for _, f := range z.File {
		name, err := checkPath(f.Name)
		if err != nil {
			return nil, err
		}
		if f.FileInfo().IsDir() {
			continue
		}
		if f.Mode().Type() != 0 {
			return nil, fmt.Errorf("%q is neither a file nor a directory", f.Name)
		}
		if _, taken := names[name]; taken {
			return nil, fmt.Errorf("%q is there twice", f.Name)
		}
		names[name] = true
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if names[dir] {
				return nil, fmt.Errorf("%q lies in a file", f.Name)
			}
			names[dir] = false
		}
		if len(files) == maxFiles {
			return nil, fmt.Errorf("it holds more than %d files", maxFiles)
		}
		r, err := f.Open()
		if err != nil {
			return nil, fmt.Errorf("open %q: %w", f.Name, err)
		}
		data, err := io.ReadAll(io.LimitReader(r, left+1))
		r.Close()
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", f.Name, err)
		}
		if left -= int64(len(data)); left < 0 {
			return nil, fmt.Errorf("it holds more than %d KiB", maxBytes>>10)
		}
		files = append(files, file{name, data, f.Mode()&0o111 != 0})
	}
	return files, nil
}

func checkPath(s string) (string, error) {
	name := path.Clean(s)
	if !fs.ValidPath(name) || strings.ContainsAny(s, "\\\x00") || len(name) > 1000 || path.IsAbs(s) {
		return "", fmt.Errorf("%s is not the path of a file in it", strconv.Quote(s))
	}
	for element := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(element, "..") { // Kubernetes keeps such names for itself
			return "", fmt.Errorf("%s is not the path of a file in it", strconv.Quote(s))
		}
	}
	return name, nil
}
