package app

import (
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
	"github.com/cloister-dev/cloister/internal/lib/pki"
)

// Definitions are the resource types that there are, for documentation: none of them can be run.
func Definitions() []resourcetype.Definition {
	return (&Service{root: &pki.Authority{}}).resourceTypes()
}
