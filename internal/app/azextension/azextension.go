// Package azextension answers for the place where the Azure CLI looks for extensions: the index behind aka.ms, and
// the storage account that has the wheels. The index holds one extension, aks-preview, which is Cloister's own and
// says so in its version; it is built here, byte for byte the same each time, from the Python beside this file.
//
// Wheels: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
package azextension

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
)

// Hosts are the public names that are answered for.
var Hosts = []string{"aka.ms", storage}

const (
	storage = "azcliprod.blob.core.windows.net"
	// version is not less than the one that the page asks for. The part after the plus is PEP 440's place for who built it.
	version = "9.0.0b2+cloister.1"
	module  = "azext_aks_preview"
	info    = "aks_preview-" + version + ".dist-info"
	wheel   = "aks_preview-" + version + "-py3-none-any.whl"
)

//go:embed aks_preview/__init__.py
var source []byte

// cliMetadata is what the CLI asks of an extension before it installs one. The oldest CLI is the page's.
var cliMetadata = map[string]any{"azext.isPreview": true, "azext.minCliCoreVersion": "2.63.0"}

const metadata = `Metadata-Version: 2.1
Name: aks-preview
Version: ` + version + `
Summary: Cloister's extension of this name: the outbound type block for az aks create and update
`

// New returns the handler of all Hosts.
func New() (http.Handler, error) {
	built, err := build()
	if err != nil {
		return nil, fmt.Errorf("build the extension of the Azure CLI: %w", err)
	}
	index, err := json.Marshal(indexOf(built))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET aka.ms/azure-cli-extension-index-v1", answer("application/json", index))
	// Which extension has a command that core has not: none.
	mux.HandleFunc("GET aka.ms/azExtCmdTree", answer("application/json", []byte("{}")))
	// The same where a cloud says that its mirror is at this path.
	mux.HandleFunc("GET /azmirror/extensions/index.json", answer("application/json", index))
	mux.HandleFunc("GET /azmirror/extensions/extensionCommandTree.json", answer("application/json", []byte("{}")))
	mux.HandleFunc("GET /azmirror/extensions/"+wheel, answer("application/octet-stream", built))
	mux.HandleFunc("GET "+storage+"/cli-extensions/"+wheel, answer("application/octet-stream", built))
	return mux, nil
}

func answer(kind string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(body) // a client that is gone has nobody to tell
	}
}

// indexOf lists the wheel as the index of public extensions does.
func indexOf(built []byte) any {
	sum := sha256.Sum256(built)
	about := map[string]any{"name": "aks-preview", "version": version}
	for k, v := range cliMetadata {
		about[k] = v
	}
	return map[string]any{
		"formatVersion": "1",
		"extensions": map[string]any{"aks-preview": []any{map[string]any{
			"filename": wheel, "downloadUrl": "https://" + storage + "/cli-extensions/" + wheel,
			"sha256Digest": hex.EncodeToString(sum[:]), "metadata": about,
		}}},
	}
}

// build makes the wheel. Files carry no time, so that the same source has the same digest everywhere.
func build() ([]byte, error) {
	about, err := json.Marshal(cliMetadata)
	if err != nil {
		return nil, err
	}
	files := []struct {
		name string
		data []byte
	}{
		{module + "/__init__.py", source},
		{module + "/azext_metadata.json", about},
		{info + "/METADATA", []byte(metadata)},
		{info + "/WHEEL", []byte("Wheel-Version: 1.0\nGenerator: cloister\nRoot-Is-Purelib: true\nTag: py3-none-any\n")},
	}
	var out, record bytes.Buffer
	z := zip.NewWriter(&out)
	add := func(name string, data []byte) error {
		f, err := z.Create(name)
		if err == nil {
			_, err = f.Write(data)
		}
		return err
	}
	for _, f := range files {
		if err := add(f.name, f.data); err != nil {
			return nil, err
		}
		sum := sha256.Sum256(f.data)
		fmt.Fprintf(&record, "%s,sha256=%s,%d\n", f.name, base64.RawURLEncoding.EncodeToString(sum[:]), len(f.data))
	}
	fmt.Fprintf(&record, "%s/RECORD,,\n", info)
	if err := add(info+"/RECORD", record.Bytes()); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
