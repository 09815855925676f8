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
	for _, damaged := range []string{"{", `{"conversion": "never"}`} {
		write(damaged)
		if s, err := settings.Load(dir); err == nil {
			t.Errorf("%s is read as %+v", damaged, s)
		}
	}
}
