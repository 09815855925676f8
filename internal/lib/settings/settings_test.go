package settings_test

import (
	"os"
	"testing"

	"github.com/cloister-dev/cloister/internal/lib/settings"
)

func TestSettings(t *testing.T) {
	dir := t.TempDir()
	if s, err := settings.Load(dir); err != nil || s.Conversion != settings.ConversionAtOnce {
		t.Errorf("without a file: %+v, %v", s, err)
	}
	write := func(text string) {
		if err := os.WriteFile(settings.Path(dir), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"conversion": "in-steps"}`)
	if s, err := settings.Load(dir); err != nil || s.Conversion != settings.ConversionInSteps {
		t.Errorf("saved: %+v, %v", s, err)
	}
	if s, err := settings.Load(dir); err != nil || s.AzureTiming {
		t.Errorf("waits are Azure's unasked: %+v, %v", s, err)
	}
	write(`{"azureTiming": true}`)
	if s, err := settings.Load(dir); err != nil || !s.AzureTiming || s.Conversion != settings.ConversionAtOnce {
		t.Errorf("saved: %+v, %v", s, err)
	}
	for _, damaged := range []string{"{", `{"conversion": "never"}`, `{"conversion": "at-once", "throttling": "much"}`} {
		write(damaged)
		if s, err := settings.Load(dir); err == nil {
			t.Errorf("%s is read as %+v", damaged, s)
		}
	}
}

func TestOnlyThisMachineReachesTheService(t *testing.T) {
	for listen, good := range map[string]bool{
		"": true, "127.0.0.1:8443": true, "[::1]:8443": true,
		"0.0.0.0:8443": false, "192.168.0.1:8443": false, "[::]:8443": false, "localhost:8443": false, "127.0.0.1": false, "127.0.0.1:0": false,
	} {
		if err := (settings.Settings{Conversion: settings.ConversionAtOnce, Listen: listen}).Validate(); (err == nil) != good {
			t.Errorf("%q: %v", listen, err)
		}
	}
}

func TestNames(t *testing.T) {
	s := settings.Settings{Listen: "127.0.0.1:8443"}
	for host, want := range map[string]bool{
		"127.0.0.1:8443": true, "localhost:8443": true, "localhost:8444": false, "management.azure.com": false, "example.com:8443": false, "cloister": false,
	} {
		if s.Names(host) != want {
			t.Errorf("%s: %v", host, !want)
		}
	}
	if (settings.Settings{}).Names("localhost:8443") {
		t.Error("what is not listened on has a name")
	}
}
