package memory

import (
	"testing"

	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) resourcestore.Store { return New() })
}
