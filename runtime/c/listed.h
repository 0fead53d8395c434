/* The manifest.json beside a file, and what it says that the file is.  Read with nothing trusted. */
#ifndef CDR_LISTED_H
#define CDR_LISTED_H

#include "weights.h"

/* CDR_FILE_DAMAGED when the manifest beside `path` lists that name and the bytes are others; CDR_MANIFEST when it is
   malformed, changed, of another format or unfinished.  Without a manifest, or not listed in it, any bytes are right. */
int cdr_listed_check(const char *path, const cdr_file *file);

/* A manifest's last line is the checksum of all before it: CDR_OK, CDR_MANIFEST where there is none, CDR_FILE_DAMAGED
   where it is another one or not the last, CDR_NO_MEMORY. */
int cdr_listed_seal(const cdr_file *manifest);

#endif
