package app

import (
	"github.com/cloister-dev/cloister/internal/arm/resourcetype"
)

// Definitions are the resource types that there are, for documentation: none of them can be run.
func Definitions() []resourcetype.Definition {
	return (&API{}).resourceTypes(Engines{})
}
