package managedclusters

import (
	"fmt"
	"net/netip"

	"github.com/google/uuid"
)

// The VNet that AKS makes when the request names no subnet.
var (
	managedVNetPrefix   = netip.MustParsePrefix("10.224.0.0/12")
	managedSubnetPrefix = netip.MustParsePrefix("10.224.0.0/16")
)

// tenth is the tenth address of a network, which AKS gives the DNS Service; "" when it has none.
func tenth(cidr string) string {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return ""
	}
	a := p.Masked().Addr()
	for range 10 {
		a = a.Next()
	}
	if !p.Contains(a) {
		return ""
	}
	return a.String()
}

// older reports whether a version such as 1.29.4 or 1.29 is before major.minor.
func older(version string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(version, "%d.%d", &a, &b); n < 2 {
		return false
	}
	return a < major || a == major && b < minor
}

func newGUID() string { return uuid.NewString() }

// roleAssignmentName is the same for the same assignment, so that making it twice is making it once.
func roleAssignmentName(scope fmt.Stringer, principal, role string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(scope.String()+"|"+principal+"|"+role)).String()
}
