package azextension

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func get(t *testing.T, h http.Handler, target string) (int, []byte) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, u.Path, nil)
	r.Host = u.Host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.Bytes()
}

// The CLI follows the index to the wheel, and installs it when its digest is the index's.
func TestIndexLeadsToTheWheel(t *testing.T) {
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	_, body := get(t, h, "https://aka.ms/azure-cli-extension-index-v1")
	var index struct {
		Extensions map[string][]struct{ Filename, DownloadURL, SHA256Digest string }
	}
	if err := json.Unmarshal(body, &index); err != nil || len(index.Extensions["aks-preview"]) != 1 {
		t.Fatalf("%v: %s", err, body)
	}
	e := index.Extensions["aks-preview"][0]
	status, wheel := get(t, h, e.DownloadURL)
	sum := sha256.Sum256(wheel)
	if status != http.StatusOK || hex.EncodeToString(sum[:]) != e.SHA256Digest {
		t.Fatalf("%d, digest %x, the index says %s", status, sum, e.SHA256Digest)
	}
	archive, err := zip.NewReader(bytes.NewReader(wheel), int64(len(wheel)))
	if err != nil {
		t.Fatal(err)
	}
	listed := ""
	for _, f := range archive.File {
		if strings.HasSuffix(f.Name, "/RECORD") {
			r, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			listed = string(data)
		}
	}
	for _, f := range archive.File { // pip refuses a wheel whose RECORD is not complete
		if !strings.Contains(listed, f.Name+",") {
			t.Errorf("RECORD has no %s:\n%s", f.Name, listed)
		}
	}
	again, err := build()
	if err != nil || !bytes.Equal(wheel, again) {
		t.Errorf("another wheel the second time (%v)", err)
	}
}

func TestNothingElseIsAnswered(t *testing.T) {
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, h, "https://aka.ms/azExtCmdTree"); status != http.StatusOK || string(body) != "{}" {
		t.Errorf("%d %s", status, body)
	}
	for _, target := range []string{"https://aka.ms/cli_ref", "https://management.azure.com/azExtCmdTree", "https://azcliprod.blob.core.windows.net/cli-extensions/other.whl"} {
		if status, _ := get(t, h, target); status != http.StatusNotFound {
			t.Errorf("%s: %d", target, status)
		}
	}
}
