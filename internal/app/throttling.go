package app

import (
	"time"

	"github.com/cloister-dev/cloister/internal/arm/frontdoor"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/agentpools"
	"github.com/cloister-dev/cloister/internal/provider/containerservice/managedclusters"
)

// throttling are the limits of AKS's resource provider (https://learn.microsoft.com/azure/aks/quotas-skus-regions, "Throttling limits
// on AKS resource provider APIs"). The words and the name of the first are Azure's (https://learn.microsoft.com/troubleshoot/azure/azure-kubernetes/error-codes/throttled-error),
// the other names are made like it.
var throttling = refusing("The %s request limit has been exceeded for SubID='%s', please retry again in %d seconds. For more information, please visit aka.ms/aks/throttling", []frontdoor.Limit{
	{Operation: "PutManagedClusterHandler.PUT", Method: "PUT", Type: managedclusters.Name, Per: frontdoor.PerResource, Burst: 20, Refill: time.Minute},
	{Operation: "PutAgentPoolHandler.PUT", Method: "PUT", Type: agentpools.Name, Per: frontdoor.PerResource, Burst: 20, Refill: time.Minute},
	{Operation: "GetManagedClusterHandler.GET", Method: "GET", Type: managedclusters.Name, Per: frontdoor.PerResource, Burst: 60, Refill: time.Second},
	{Operation: "ListManagedClustersByResourceGroupHandler.GET", Method: "GET", Type: managedclusters.Name, List: true, Per: frontdoor.PerGroup, Burst: 60, Refill: time.Second},
	{Operation: "ListManagedClustersBySubscriptionHandler.GET", Method: "GET", Type: managedclusters.Name, List: true, Per: frontdoor.PerSubscription, Burst: 500, Refill: time.Second},
	{Operation: "GetOperationStatusHandler.GET", Method: "GET", Type: "Microsoft.ContainerService/locations/operations", Per: frontdoor.PerSubscription, Burst: 200, Refill: time.Second / 2},
	{Operation: "Microsoft.ContainerService", Type: "Microsoft.ContainerService", Per: frontdoor.PerSubscription, Burst: 60, Refill: time.Second},
})

func refusing(words string, limits []frontdoor.Limit) []frontdoor.Limit {
	for i := range limits {
		limits[i].Refusal = words
	}
	return limits
}
