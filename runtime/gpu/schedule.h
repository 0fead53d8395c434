/* The part of the manifest that is the same for every GPU: the state, the tensors, the units and their calls. */
#ifndef CDR_SCHEDULE_H
#define CDR_SCHEDULE_H

#include "reader.h"

/* Reads `state` and `tensors`, then `schedule`, of the manifest at `at`.  The weights file has a tensor `path.scale`
   for every one that is stored as i8, and `path.start` for a piece of the state that begins as more than a number. */
int cdr_read_tables(cdr_manifest *m, cdr_reader *r, cdr_json at);
int cdr_read_schedule(cdr_manifest *m, cdr_reader *r, cdr_json at);

/* The kernels and the launches of each unit, of the program at `at`. */
int cdr_read_program(cdr_manifest *m, cdr_reader *r, cdr_json at);

#endif
