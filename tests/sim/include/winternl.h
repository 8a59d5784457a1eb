/* RtlNtStatusToDosError, which the engine leaves to the layer above it. */
#ifndef SIM_WINTERNL_H
#define SIM_WINTERNL_H

#include "windows.h"

ULONG RtlNtStatusToDosError(LONG status);

#endif
