package runcommand

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

type entry struct {
	name, data string
	mode       fs.FileMode
}

func zipOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		h.SetMode(e.mode)
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(e.data)); err != nil && !strings.HasSuffix(e.name, "/") {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	files, err := unpack(zipOf(t, entry{"./a.yaml", "x", 0o644}, entry{"dir/", "", fs.ModeDir | 0o755}, entry{"dir/run.sh", "y", 0o755}))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%+v", files); got != "[{path:a.yaml data:[120] executable:false} {path:dir/run.sh data:[121] executable:true}]" {
		t.Errorf("%s", got)
	}
	if files, err := unpack(nil); err != nil || files != nil {
		t.Errorf("without attachments: %v, %v", files, err)
	}
}

// An archive comes from a client, and may have been made to break out or to fill the machine.
func TestUnpackRefuses(t *testing.T) {
	var many []entry
	for i := range maxFiles + 1 {
		many = append(many, entry{fmt.Sprint("f", i), "", 0o644})
	}
	for want, archive := range map[string][]byte{
		"not a zip archive":                       []byte("PK"),
		`"../etc/passwd" is not`:                  zipOf(t, entry{"../etc/passwd", "x", 0o644}),
		`"/etc/passwd" is not`:                    zipOf(t, entry{"/etc/passwd", "x", 0o644}),
		`"a/../../b" is not`:                      zipOf(t, entry{"a/../../b", "x", 0o644}),
		`"a\\b" is not`:                           zipOf(t, entry{`a\b`, "x", 0o644}),
		`"..data/x" is not`:                       zipOf(t, entry{"..data/x", "x", 0o644}),
		`"link" is neither`:                       zipOf(t, entry{"link", "/etc", fs.ModeSymlink | 0o777}),
		`"a" is there twice`:                      zipOf(t, entry{"a", "x", 0o644}, entry{"a", "y", 0o644}),
		`"a/b" lies in a file`:                    zipOf(t, entry{"a", "x", 0o644}, entry{"a/b", "y", 0o644}),
		`"a" is there twice `:                     zipOf(t, entry{"a/b", "x", 0o644}, entry{"a", "y", 0o644}),
		fmt.Sprintf("than %d KiB", maxBytes>>10):  zipOf(t, entry{"bomb", strings.Repeat("0", 64<<20), 0o644}),
		fmt.Sprintf("more than %d fil", maxFiles): zipOf(t, many...),
	} {
		if _, err := unpack(archive); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(zipOf(f, entry{"a", "x", 0o644}, entry{"b/c", "y", 0o755}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		files, err := unpack(archive)
		total := 0
		for _, file := range files {
			total += len(file.data)
			if !fs.ValidPath(file.path) || strings.Contains(file.path, "..") && strings.HasPrefix(file.path, "..") {
				t.Errorf("path %q", file.path)
			}
		}
		if err == nil && (total > maxBytes || len(files) > maxFiles) {
			t.Errorf("%d files of %d bytes", len(files), total)
		}
	})
}
