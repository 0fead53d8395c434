/* Writing a file that a user named: whole or not at all.  The twin of runtime/outputs.py.

   A file is written beside its name and renamed; a symbolic link is kept, and what it leads to is replaced.  A device
   or a FIFO is written into, and so is an open file by its descriptor's name (/dev/stdout).  A folder, a disk, a
   socket, and the file that the standard output already goes to, are refused. */
#ifndef CDR_OUTPUT_H
#define CDR_OUTPUT_H

enum { CDR_LONGEST_OUTPUT = 4096 };

typedef struct {
  int fd;
  char path[CDR_LONGEST_OUTPUT], part[CDR_LONGEST_OUTPUT]; /* `part` is empty where `path` is written into */
} cdr_output;

int cdr_output_open(cdr_output *output, const char *path);

/* Ends the file, or with `failed` leaves what was there before. */
int cdr_output_close(cdr_output *output, int failed);

#endif
