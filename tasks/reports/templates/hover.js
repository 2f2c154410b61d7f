// Boxes and pointer are in shares of the picture, so that its size on the screen does not matter.
for (const picture of document.querySelectorAll('.cells')) {
  const matrices = JSON.parse(picture.querySelector('script').textContent);
  const cell = picture.appendChild(document.createElement('div'));
  const value = picture.appendChild(document.createElement('div'));
  const hide = () => { cell.hidden = value.hidden = true; };
  cell.className = 'cell';
  value.className = 'value';
  hide();
  picture.addEventListener('pointerleave', hide);
  picture.addEventListener('pointermove', event => {
    const frame = picture.getBoundingClientRect();
    const x = (event.clientX - frame.left) / frame.width, y = (event.clientY - frame.top) / frame.height;
    for (const matrix of matrices) {
      const [left, first, right, last] = matrix.box;
      const width = (right - left) / matrix.columns.length, height = (last - first) / matrix.rows.length;
      const column = Math.floor((x - left) / width), row = Math.floor((y - first) / height);
      if (!(matrix.rows[row] !== undefined && matrix.columns[column] !== undefined)) continue;
      const number = matrix.values[row][column];
      const shown = number === null ? 'no value' : number + (matrix.unit ? ' ' + matrix.unit : '');
      value.textContent = matrix.rows[row] + ', ' + matrix.columns[column] + ': ' + shown;
      cell.hidden = value.hidden = false;
      const top = Math.min(first + row * height, first + (row + 1) * height);
      cell.style.cssText = `left:${100 * (left + column * width)}%;top:${100 * top}%;` +
        `width:${100 * width}%;height:${100 * Math.abs(height)}%`;
      value.style.cssText = (x < 0.6 ? `left:${100 * x + 1}%;` : `right:${100 * (1 - x) + 1}%;`) +
        (y < 0.9 ? `top:${100 * y + 2}%` : `bottom:${100 * (1 - y) + 2}%`);
      return;
    }
    hide();
  });
}
