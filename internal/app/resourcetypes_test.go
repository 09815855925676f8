package app

import (
	"strings"
	"testing"
)

// Installations on one machine do not know of each other's nodes: they begin at different user ids.
func TestFirstRange(t *testing.T) {
	seen := map[uint32]int{}
	for _, id := range []string{"d96848", "2be6a7", "f058b3", "4eba94", "000001", "000002"} {
		seen[firstRange(id)%239]++
	}
	if len(seen) < 5 {
		t.Errorf("six installations begin at %d places", len(seen))
	}
	if again := firstRange(strings.Clone("d96848")); again != firstRange("d96848") {
		t.Error("one installation begins at two places")
	}
}
