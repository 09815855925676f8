// Package settings is what a user has chosen about an installation, in one file of its data directory. It is read
// when it is needed: a changed setting holds for the next request.
package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
)

// Ways in which a cluster that is not isolated may become so.
const (
	// ConversionAtOnce lets one update change the artifact source to Cache and the outbound type to none or block, as
	// Azure did in 2025.
	ConversionAtOnce = "at-once"
	// ConversionInSteps has the artifact source changed and all nodes reimaged before, as Azure does since 2026.
	ConversionInSteps = "in-steps"
)

// What becomes of too many requests.
const (
	ThrottlingOff = "off"
	// ThrottlingAzure refuses them for a while, as Azure's service for Kubernetes does.
	ThrottlingAzure = "azure"
)

// Settings of an installation.
type Settings struct {
	Conversion string `json:"conversion,omitempty"` // "" is ConversionAtOnce
	Throttling string `json:"throttling,omitempty"` // "" is ThrottlingOff
	// Listen is the loopback address and port at which the host's own programs reach the service; "" is nowhere. It is
	// read at the service's start.
	Listen string `json:"listen,omitempty"`
	// AzureTiming has nodes wait as long as Azure's do for what does not answer, minutes for each, before they fail. It
	// holds for nodes that are provisioned from then on.
	AzureTiming bool `json:"azureTiming,omitempty"`
}

// Path is the file of the installation in dataDir.
func Path(dataDir string) string { return filepath.Join(dataDir, "settings.json") }

// Load reads the settings. Without a file they are the defaults.
func Load(dataDir string) (Settings, error) {
	s := Settings{Conversion: ConversionAtOnce}
	data, err := os.ReadFile(Path(dataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return Settings{}, fmt.Errorf("read the settings in %s: %w", Path(dataDir), err)
	}
	return s, s.Validate()
}

// Validate refuses values that there are not. Who can open a connection to the service can guess at secrets, so other
// machines must not be able to.
func (s Settings) Validate() error {
	if s.Conversion != ConversionAtOnce && s.Conversion != ConversionInSteps {
		return fmt.Errorf("conversion %q is neither %s nor %s", s.Conversion, ConversionAtOnce, ConversionInSteps)
	}
	if s.Throttling != "" && s.Throttling != ThrottlingOff && s.Throttling != ThrottlingAzure {
		return fmt.Errorf("throttling %q is neither %s nor %s", s.Throttling, ThrottlingAzure, ThrottlingOff)
	}
	if s.Listen == "" {
		return nil
	}
	a, err := netip.ParseAddrPort(s.Listen)
	if err != nil || a.Port() == 0 {
		return fmt.Errorf("listen %q is no address and port such as 127.0.0.1:8443", s.Listen)
	}
	if !a.Addr().IsLoopback() {
		return fmt.Errorf("listen %q is not on the loopback interface: other machines would reach the service", s.Listen)
	}
	return nil
}

// Names reports whether host, as in a URL, is the address that is listened on.
func (s Settings) Names(host string) bool {
	name, port, err := net.SplitHostPort(host)
	_, want, wantErr := net.SplitHostPort(s.Listen)
	if err != nil || wantErr != nil || port != want {
		return false
	}
	a, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && a.IsLoopback()
}
